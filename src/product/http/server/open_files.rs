//! How many connections the operating system's limit of open files allows.

use nix::sys::resource::{Resource, getrlimit};
use tracing::warn;

use super::MAX_REFUSALS;

/// Open files that are left for Redis, the database, the exchange, and the files of the process.
const KEPT: u64 = 64;

/// The wanted number of connections, or as many as leave enough files for the rest of the process and for another server
/// that takes `beside` connections.
pub(crate) fn fitting_connections(wanted: usize, beside: usize) -> usize {
    let Ok((limit, _)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return wanted;
    };
    let fitting = within(wanted, beside, limit);
    if fitting < wanted {
        warn!(
            http.wanted_connections = wanted,
            http.max_connections = fitting,
            open_files = limit,
            "the limit of open files allows fewer connections than HTTP_MAX_CONNECTIONS: raise it (`ulimit -n`, LimitNOFILE=)"
        );
    }
    fitting
}

/// One at least, also below an absurd limit.
fn within(wanted: usize, beside: usize, limit: u64) -> usize {
    let servers = if beside > 0 { 2 } else { 1 };
    let others = KEPT + servers * MAX_REFUSALS as u64 + beside as u64;
    let left = limit.saturating_sub(others);
    wanted.min(usize::try_from(left).unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_the_rest_of_the_process() {
        assert_eq!(within(4096, 0, 1024), 896);
        assert_eq!(within(4096, 32, 1024), 800);
        assert_eq!(within(4096, 0, u64::MAX), 4096);
        assert_eq!(within(4096, 0, 100), 1);
    }
}
