//! What the long-running verbs tell systemd.

use std::os::unix::net::UnixDatagram;
use std::time::Instant;

use tradebot_base::market::Market;
use tradebot_test_support::{Process, Signal, bin, free_port, stretched};

use crate::world::{PATIENCE, World};

/// A stand-in for systemd: the socket that services write to.
struct NotifySocket {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl NotifySocket {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket
            .set_read_timeout(Some(stretched(PATIENCE)))
            .expect("a time limit");
        Self { socket, folder }
    }

    fn next(&self) -> String {
        let mut message = [0; 256];
        let length = self.socket.recv(&mut message).expect("a message in time");
        String::from_utf8_lossy(&message[..length]).into_owned()
    }
}

#[tokio::test]
async fn services_say_that_they_are_ready_alive_and_stopping() {
    let world = World::new().await;
    for market in Market::ALL {
        world.exchange_lists(market);
    }
    let free = format!("127.0.0.1:{}", free_port());
    let services: [(&str, &[&str]); 5] = [
        ("tradebot-symbols", &["worker", "-c", "1"]),
        (
            "tradebot-symbols",
            &["serve", "--listen", &free, "--threads", "1"],
        ),
        ("tradebot-symbols", &["up", "-c", "1"]),
        ("tradebot-symbols", &["sandbox", "--listen", "127.0.0.1:0"]),
        ("tradebot-beat", &[]),
    ];
    for (program, arguments) in services {
        let systemd = NotifySocket::new();
        let service = Process::builder(bin(program))
            .args(arguments)
            .envs(world.environment())
            .env("NOTIFY_SOCKET", systemd.folder.path().join("notify"))
            .env("WATCHDOG_USEC", "300000")
            .spawn();
        assert_eq!(systemd.next(), "READY=1\n", "{program} {arguments:?}");
        // A third of the limit lies between two messages. The first comes at once.
        assert_eq!(systemd.next(), "WATCHDOG=1\n");
        let fed = Instant::now();
        for _ in 0..5 {
            assert_eq!(systemd.next(), "WATCHDOG=1\n");
        }
        let fed = fed.elapsed();
        assert!((350..1500).contains(&fed.as_millis()), "{fed:?}");
        service.signal(Signal::SIGTERM);
        while systemd.next() != "STOPPING=1\n" {}
        assert_eq!(
            service.wait_exit(PATIENCE).code(),
            Some(0),
            "{}",
            service.output()
        );
    }
}
