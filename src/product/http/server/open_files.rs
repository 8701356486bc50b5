//! How many connections the operating system's limit of open files allows.

use nix::sys::resource::{Resource, getrlimit};
use tracing::warn;

use super::MAX_REFUSALS;

/// Open files that are left for Redis, the database, the exchange, and the files of the process.
const KEPT: u64 = 64;

/// The wanted number of connections, or as many as leave enough files for the rest of the process.
pub(super) fn fitting(wanted: usize) -> usize {
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return wanted;
    };
    let fitting = within(wanted, limit);
    if fitting < wanted {
        warn!(
            wanted,
            fitting,
            limit,
            "the limit of open files allows fewer connections than HTTP_MAX_CONNECTIONS: raise it (`ulimit -n`, LimitNOFILE=)"
        );
    }
    fitting
}

/// One at least, also below an absurd limit.
fn within(wanted: usize, limit: u64) -> usize {
    let left = limit.saturating_sub(KEPT + MAX_REFUSALS as u64);
    wanted.min(usize::try_from(left).unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_the_rest_of_the_process() {
        assert_eq!(within(4096, 1024), 896);
        assert_eq!(within(4096, u64::MAX), 4096);
        assert_eq!(within(4096, 100), 1);
    }
}
