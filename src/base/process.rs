//! What a program does before anything else: it protects the secrets in its memory, and asks for open files.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Forbids core dumps, keeps other processes of the same user from reading this one's memory, and raises the limit of open
/// files as far as is allowed.
///
/// The resource limit stops dumps to files, the dumpable attribute also dumps that the kernel pipes to a program. The
/// attribute makes root the owner of this process's files in `/proc`.
///
/// # Errors
/// When the kernel refuses to forbid core dumps; Linux does not.
pub fn prepare() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_dumpable(false)?;
    // Without more files the endpoint takes fewer connections, and says so.
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_files_nor_programs_get_a_dump_and_all_files_allowed_may_be_open() {
        prepare().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_CORE), Ok((0, 0)));
        assert_eq!(nix::sys::prctl::get_dumpable(), Ok(false));
        let (open, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(open, most);
    }
}
