//! Keeping this process's memory to itself.

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// No core dumps from now on, and no other process of the same user may look into this one's memory.
///
/// The limit stops dumps to files, the attribute also those that the kernel hands to a program. While it holds, files
/// of this process in `/proc` belong to root.
///
/// # Errors
/// When the kernel refuses either, which it does not on Linux.
pub fn forbid_dumps() -> nix::Result<()> {
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
