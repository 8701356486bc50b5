//! An HTTP server that gives scripted answers, good and broken ones.
//!
//! It writes HTTP/1.1 by hand, because a server library would refuse to send what a broken exchange sends. Every
//! connection closes after one request.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::accounts::{ACCOUNT, Accounts, TIME};
use crate::background::Background;
use crate::reply::Reply;

const MAX_HEAD: usize = 64 * 1024;

/// A server with scripted answers on a free port of 127.0.0.1.
///
/// Dropping it fails the test if a request came for a path without a script.
#[derive(Debug)]
pub struct ScriptedExchange {
    port: u16,
    script: Arc<Mutex<Script>>,
    _server: Background,
}

/// A received request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method, such as `GET`.
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The query without its question mark; empty if there is none.
    pub query: String,
    /// The headers in order, with lower-case names.
    pub headers: Vec<(String, String)>,
}

#[derive(Debug, Default)]
struct Script {
    paths: HashMap<String, Replies>,
    requests: Vec<Request>,
    accounts: Option<Accounts>,
}

#[derive(Debug, Default)]
struct Replies {
    queue: VecDeque<Reply>,
    /// The last reply has been sent at least once, so the next one added replaces it.
    last_given: bool,
}

impl ScriptedExchange {
    /// Starts the server.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a free port");
        let listener = listener.into_std().expect("a listener without its runtime");
        let port = listener.local_addr().expect("the address of the listener").port();
        let script = Arc::new(Mutex::new(Script::default()));
        let shared = Arc::clone(&script);
        let server = Background::start("scripted-exchange", async move {
            serve(
                TcpListener::from_std(listener).expect("a listener of this runtime"),
                shared,
            )
            .await;
        });
        Self {
            port,
            script,
            _server: server,
        }
    }

    /// Adds `reply` to the queue of `path`. Each request takes one; the last one is repeated until another is added.
    pub fn reply(&self, path: &str, reply: Reply) {
        let mut script = lock(&self.script);
        let replies = script.paths.entry(path.to_owned()).or_default();
        if std::mem::take(&mut replies.last_given) {
            replies.queue.clear();
        }
        replies.queue.push_back(reply);
    }

    /// Answers every request for `path` with `reply` from now on, and drops what was queued.
    pub fn always(&self, path: &str, reply: Reply) {
        let replies = Replies {
            queue: VecDeque::from([reply]),
            last_given: false,
        };
        lock(&self.script).paths.insert(path.to_owned(), replies);
    }

    /// Adds a key and answers signed account requests as the exchange does: it checks the format of the key, the key,
    /// the time and the signature. Scripted replies take precedence.
    pub fn know_key(&self, key: &str, secret: &str) {
        let mut script = lock(&self.script);
        let accounts = script.accounts.get_or_insert_default();
        accounts.secrets.insert(key.to_owned(), secret.to_owned());
    }

    /// Turns on the account endpoint, with a clock that is `ms` ahead of this machine's.
    pub fn set_clock_ahead(&self, ms: i64) {
        lock(&self.script).accounts.get_or_insert_default().ahead_ms = ms;
    }

    /// The API keys received so far, in order of arrival.
    #[must_use]
    pub fn keys_seen(&self) -> Vec<String> {
        let requests = self.requests();
        requests
            .iter()
            .filter_map(|it| it.header("x-mbx-apikey").map(str::to_owned))
            .collect()
    }

    /// Every request so far, in order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.script).requests.clone()
    }

    /// How many requests came for `path`.
    #[must_use]
    pub fn count(&self, path: &str) -> usize {
        lock(&self.script)
            .requests
            .iter()
            .filter(|request| request.path == path)
            .count()
    }

    /// `http://127.0.0.1:PORT`, without a trailing slash.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}:{}", Ipv4Addr::LOCALHOST, self.port)
    }
}

impl Drop for ScriptedExchange {
    fn drop(&mut self) {
        let script = lock(&self.script);
        let unscripted = |request: &&Request| {
            !script.paths.contains_key(&request.path)
                && (script.accounts.is_none() || !is_of_accounts(&request.path))
        };
        let surprises: Vec<_> = script
            .requests
            .iter()
            .filter(unscripted)
            .map(|it| it.path.clone())
            .collect();
        drop(script);
        if !surprises.is_empty() && !thread::panicking() {
            panic!("the exchange got requests for paths without a script: {surprises:?}");
        }
    }
}

impl Request {
    /// The value of a header, by its lower-case name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

impl Replies {
    fn next(&mut self) -> Option<Reply> {
        if self.queue.len() > 1 {
            return self.queue.pop_front();
        }
        self.last_given = true;
        self.queue.front().cloned()
    }
}

async fn serve(listener: TcpListener, script: Arc<Mutex<Script>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (socket, _) = accepted.expect("a connection from this machine");
                connections.spawn(answer(socket, Arc::clone(&script)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Fails when the client leaves early, as some tests have it do.
async fn answer(mut socket: TcpStream, script: Arc<Mutex<Script>>) -> io::Result<()> {
    let Some(request) = read_request(&mut socket).await? else {
        return Ok(());
    };
    let reply = {
        let mut script = lock(&script);
        let scripted = script.paths.get_mut(&request.path).and_then(Replies::next);
        let computed = || {
            let accounts = script.accounts.as_ref().filter(|_| is_of_accounts(&request.path));
            accounts.map(|accounts| accounts.answer(&request))
        };
        let reply = scripted
            .or_else(computed)
            .map(|reply| reply.for_query(&request.query));
        script.requests.push(request);
        reply
    };
    reply
        .unwrap_or_else(|| Reply::status(404, r#"{"msg":"this path has no script"}"#))
        .send(&mut socket)
        .await
}

/// Reads up to the empty line, as no request has a body. `None` if it is not HTTP.
async fn read_request(socket: &mut TcpStream) -> io::Result<Option<Request>> {
    let mut head = Vec::new();
    let end = loop {
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if head.len() > MAX_HEAD || socket.read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
    };
    Ok(parse(&String::from_utf8_lossy(&head[..end])))
}

fn parse(head: &str) -> Option<Request> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    // A request to a proxy names scheme and host too.
    let target = target.strip_prefix("http://").map_or(target, |absolute| {
        absolute.find('/').map_or("/", |at| &absolute[at..])
    });
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = lines.filter_map(|line| line.split_once(':'));
    Some(Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: headers
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect(),
    })
}

fn is_of_accounts(path: &str) -> bool {
    path == ACCOUNT || path == TIME
}

fn lock(script: &Mutex<Script>) -> MutexGuard<'_, Script> {
    script.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Duration;

    use flate2::read::GzDecoder;
    use tokio::io::AsyncWriteExt;
    use tokio::time;

    use super::*;

    /// Status line with headers, and the raw body.
    async fn get(exchange: &ScriptedExchange, target: &str) -> (String, Vec<u8>) {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, exchange.port))
            .await
            .expect("a connection");
        let request = format!("GET {target} HTTP/1.1\r\nHost: test\r\nX-MBX-APIKEY: Key\r\n\r\n");
        socket
            .write_all(request.as_bytes())
            .await
            .expect("a sent request");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.expect("an answer");
        let end = answer
            .windows(4)
            .position(|it| it == b"\r\n\r\n")
            .map_or(0, |end| end + 4);
        let body = answer.split_off(end);
        (String::from_utf8(answer).expect("headers are text"), body)
    }

    #[tokio::test]
    async fn replies_in_order_and_repeats_the_last() {
        let exchange = ScriptedExchange::start().await;
        exchange.reply("/a", Reply::json("1"));
        exchange.reply("/a", Reply::status(429, "2").header("Retry-After", "3"));
        assert_eq!(get(&exchange, "/a?x=y").await.1, b"1");
        for _ in 0..2 {
            let (head, body) = get(&exchange, "/a").await;
            assert_eq!(body, b"2");
            assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
            assert!(head.contains("\r\nRetry-After: 3\r\n"), "{head}");
        }
        exchange.reply("/a", Reply::json("3"));
        assert_eq!(get(&exchange, "/a").await.1, b"3");
        assert_eq!(exchange.count("/a"), 4);
        let first = &exchange.requests()[0];
        assert_eq!(
            (first.method.as_str(), first.path.as_str(), first.query.as_str()),
            ("GET", "/a", "x=y")
        );
        assert_eq!(first.header("x-mbx-apikey"), Some("Key"));
    }

    #[tokio::test]
    async fn symbols_of_another_status_than_asked_for_are_left_out() {
        let exchange = ScriptedExchange::start().await;
        let list = r#"{"symbols":[{"status":"TRADING"},{"status":"BREAK"}]}"#;
        exchange.always("/list", Reply::json(list));
        let body = get(&exchange, "/list?symbolStatus=TRADING&x=y").await.1;
        assert_eq!(body, br#"{"symbols":[{"status":"TRADING"}]}"#);
        assert_eq!(get(&exchange, "/list?x=y").await.1, list.as_bytes());
    }

    #[tokio::test]
    async fn a_truncated_reply_promises_more_than_it_sends() {
        let exchange = ScriptedExchange::start().await;
        exchange.reply("/length", Reply::json("0123456789").truncated_at(4));
        exchange.reply("/chunked", Reply::json("0123456789").chunked().truncated_at(4));
        exchange.reply("/chunked", Reply::json("0123456789").chunked());
        let (head, body) = get(&exchange, "/length").await;
        assert!(head.contains("\r\nContent-Length: 10\r\n"), "{head}");
        assert_eq!(body, b"0123");
        assert_eq!(get(&exchange, "/chunked").await.1, b"4\r\n0123\r\n");
        assert_eq!(
            get(&exchange, "/chunked").await.1,
            b"a\r\n0123456789\r\n0\r\n\r\n"
        );
    }

    #[tokio::test]
    async fn packs_repeats_drips_and_sends_raw_bytes() {
        let exchange = ScriptedExchange::start().await;
        exchange.reply("/gzip", Reply::json("body").gzip());
        exchange.reply("/bomb", Reply::gzip_bomb(5_000_000));
        exchange.reply("/times", Reply::json("ab").times(3).without_length());
        exchange.reply("/drip", Reply::json("abc").drip(Duration::from_millis(20)));
        exchange.reply("/raw", Reply::raw("garbage\r\n\r\nhere"));
        let mut text = String::new();
        GzDecoder::new(&get(&exchange, "/gzip").await.1[..])
            .read_to_string(&mut text)
            .expect("gzip");
        assert_eq!(text, "body");
        let bomb = get(&exchange, "/bomb").await.1;
        assert!(bomb.len() < 50_000, "{}", bomb.len());
        assert_eq!(
            io::copy(&mut GzDecoder::new(&bomb[..]), &mut io::sink()).expect("gzip"),
            5_000_000
        );
        let (head, body) = get(&exchange, "/times").await;
        assert_eq!(body, b"ababab");
        assert!(!head.contains("Content-Length"), "{head}");
        let started = time::Instant::now();
        assert_eq!(get(&exchange, "/drip").await.1, b"abc");
        assert!(started.elapsed() >= Duration::from_millis(60));
        assert_eq!(
            get(&exchange, "/raw").await,
            ("garbage\r\n\r\n".to_owned(), b"here".to_vec())
        );
    }

    #[tokio::test]
    async fn a_hanging_reply_never_comes_and_does_not_hold_up_others() {
        let exchange = ScriptedExchange::start().await;
        exchange.reply("/hang", Reply::json("").hang());
        exchange.reply("/fine", Reply::json("fine"));
        let hanging = time::timeout(Duration::from_millis(200), get(&exchange, "/hang"));
        assert!(hanging.await.is_err());
        assert_eq!(get(&exchange, "/fine").await.1, b"fine");
    }

    #[tokio::test]
    async fn an_unscripted_path_fails_the_test_at_its_end() {
        let exchange = ScriptedExchange::start().await;
        assert!(get(&exchange, "/surprise").await.0.starts_with("HTTP/1.1 404 "));
        let ending = std::panic::AssertUnwindSafe(|| drop(exchange));
        let panic = std::panic::catch_unwind(ending).expect_err("the path has no script");
        let message = panic.downcast_ref::<String>().expect("a formatted message");
        assert!(message.contains("/surprise"), "{message}");
    }
}
