//! Keeps secrets in this process's memory from being dumped or read.

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// Forbids core dumps, and keeps other processes of the same user from reading this one's memory.
///
/// The resource limit stops dumps to files, the dumpable attribute also dumps that the kernel pipes to a program. The
/// attribute makes root the owner of this process's files in `/proc`.
///
/// # Errors
/// When the kernel refuses either; Linux does not.
pub(crate) fn forbid_dumps() -> nix::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    prctl::set_dumpable(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::resource::getrlimit;

    #[test]
    fn neither_files_nor_programs_get_a_dump() {
        forbid_dumps().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_CORE), Ok((0, 0)));
        assert_eq!(prctl::get_dumpable(), Ok(false));
    }
}
