//! Requests that a client sends again, byte for byte, answered again without being parsed.
//!
//! A client that polls, or a proxy that revalidates, sends the same bytes on its connection for hours, and the answer to
//! them stays the same for as long as the second and the list do. Parsing such a request and writing such a header is
//! most of what an answer costs beside the system's share. So each connection remembers its last request and the header
//! that answered it. When the same bytes come between two requests, and the site says that the answer still holds, it is
//! sent again; hyper has then, as far as it can tell, been sent nothing.
//!
//! hyper does not say when it is between two requests, and a wrong guess would mix up two answers. So nothing is guessed:
//! a connection is followed by the bytes that go in and out, and only while they prove it. What hyper was given since it
//! last had nothing to do must be one header, and the server must have announced an answer to a request without a body.
//! What hyper wrote for that must be one header and exactly the body that was announced. Whatever else there is (requests
//! sent ahead of their turn, bodies, upgrades, HTTP/2, errors of hyper's own) ends the following of that connection, and
//! all of it is hyper's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;

use super::site::Answer;

/// Longer requests are not remembered, nor longer headers of answers.
const MOST: usize = 2048;
const END: &[u8] = b"\r\n\r\n";

/// An answer that hyper is about to write.
struct Announced<L> {
    /// What will follow its header.
    body: Bytes,
    /// By what the site knows whether it still holds; without it the answer is for one request.
    lasting: Option<L>,
}

type Slot<L> = Mutex<Option<Announced<L>>>;

/// Where the answers of a connection are announced, before hyper has them, for as long as it is followed.
pub(super) struct Announcements<L>(Weak<Slot<L>>);

impl<L> Announcements<L> {
    /// The answer to a request without a body goes to hyper. With `lasting` it may be given again.
    pub(super) fn announce(&self, answer: &Answer, lasting: Option<L>) {
        let Some(slot) = self.0.upgrade() else { return };
        let body = answer.body().clone().into_inner().unwrap_or_default();
        *locked(&slot) = Some(Announced { body, lasting });
    }
}

/// Nobody hears of it: what is written then is not followed.
impl<L> Default for Announcements<L> {
    fn default() -> Self {
        Self(Weak::new())
    }
}

impl<L> Clone for Announcements<L> {
    fn clone(&self) -> Self {
        Self(Weak::clone(&self.0))
    }
}

fn locked<L>(slot: &Slot<L>) -> MutexGuard<'_, Option<Announced<L>>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is known of one connection. It holds a user's token for as long as hyper's buffer does, and so has no `Debug`.
pub(super) struct Repeats<L> {
    /// The next answer, from the server; until the connection is not followed any more.
    announced: Option<Arc<Slot<L>>>,
    step: Step,
    /// The bytes of the last request.
    request: Vec<u8>,
    /// What answered it; the header is only kept of what lasts.
    head: Vec<u8>,
    answer: Option<Announced<L>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// hyper has answered everything that it was given.
    Between,
    /// hyper has been given a request, or the beginning of one.
    Asked,
    /// hyper is writing the answer; so many bytes are missing.
    Answering(usize),
    /// The last answer is sent again, so many bytes of it have been.
    Repeating(usize),
    /// It is not followed any more.
    Lost,
}

impl<L> Repeats<L> {
    /// A connection on which nothing has been sent yet, and where its answers are to be announced.
    pub(super) fn new() -> (Self, Announcements<L>) {
        let slot = Arc::new(Slot::default());
        let announcements = Announcements(Arc::downgrade(&slot));
        let repeats = Self {
            announced: Some(slot),
            step: Step::Between,
            request: Vec::new(),
            head: Vec::new(),
            answer: None,
        };
        (repeats, announcements)
    }

    /// Whether bytes from the client, that hyper has not been given, are the last request again and `holds` says that
    /// its answer is still right. Then [`unsent`](Self::unsent) is to be sent, and hyper not to be given them.
    pub(super) fn is_again(&mut self, bytes: &[u8], holds: impl FnOnce(&L) -> bool) -> bool {
        let lasting = self.answer.as_ref().and_then(|answer| answer.lasting.as_ref());
        let again = self.step == Step::Between && self.request == bytes && lasting.is_some_and(holds);
        if again {
            self.step = Step::Repeating(0);
        }
        again
    }

    /// What is still to be sent again of a header and of its body, if anything is.
    pub(super) fn unsent(&self) -> Option<[&[u8]; 2]> {
        let (Step::Repeating(sent), Some(answer)) = (self.step, &self.answer) else {
            return None;
        };
        let of_head = sent.min(self.head.len());
        Some([&self.head[of_head..], &answer.body[sent - of_head..]])
    }

    /// So many bytes of [`unsent`](Self::unsent) have been sent. Whether these were the last.
    pub(super) fn sent(&mut self, more: usize) -> bool {
        let (Step::Repeating(sent), Some(answer)) = (self.step, &self.answer) else {
            return false;
        };
        let (sent, whole) = (sent + more, self.head.len() + answer.body.len());
        self.step = if sent < whole {
            Step::Repeating(sent)
        } else {
            Step::Between
        };
        self.step == Step::Between
    }

    /// hyper has been given these bytes from the client.
    pub(super) fn given(&mut self, bytes: &[u8]) {
        match self.step {
            Step::Lost => return,
            Step::Between => {
                self.request.clear();
                self.answer = None;
                self.step = Step::Asked;
            }
            Step::Asked | Step::Answering(_) | Step::Repeating(_) => {}
        }
        if self.request.len() + bytes.len() > MOST {
            return self.lose();
        }
        self.request.extend_from_slice(bytes);
    }

    /// hyper had `head` and then `body` to write, and so many bytes of both are on their way.
    pub(super) fn written(&mut self, head: &[u8], body: &[u8], sent: usize) {
        let missing = match self.step {
            Step::Lost => return,
            Step::Between | Step::Repeating(_) => return self.lose(),
            Step::Answering(missing) => missing,
            Step::Asked => {
                let announced = self.announced.as_deref().and_then(|slot| locked(slot).take());
                let Some(answer) = announced.filter(|answer| is_answer(answer, head, body)) else {
                    return self.lose();
                };
                self.head.clear();
                if answer.lasting.is_some() {
                    self.head.extend_from_slice(head);
                }
                self.answer = Some(answer);
                head.len() + body.len()
            }
        };
        match missing.checked_sub(sent) {
            Some(0) if is_one_header(&self.request) => {
                self.step = Step::Between;
                // What will not be sent again is not kept.
                self.answer = self.answer.take().filter(|answer| answer.lasting.is_some());
            }
            Some(missing) if missing > 0 => self.step = Step::Answering(missing),
            _ => self.lose(),
        }
    }

    fn lose(&mut self) {
        self.step = Step::Lost;
        (self.request, self.head) = (Vec::new(), Vec::new());
        (self.answer, self.announced) = (None, None);
    }
}

/// Whether what hyper is about to write is exactly a header and the body that was announced: the same bytes, not only
/// equal ones.
fn is_answer<L>(announced: &Announced<L>, head: &[u8], body: &[u8]) -> bool {
    let same =
        body.len() == announced.body.len() && (body.is_empty() || std::ptr::eq(body, &*announced.body));
    let end = memchr::memmem::find(head, END).map(|at| at + END.len());
    same && head.len() <= MOST && end == Some(head.len())
}

/// Whether bytes are one header of a request and nothing else. A header ends with its first empty line, and a line may
/// end without a carriage return (RFC 9112, 2.2).
fn is_one_header(bytes: &[u8]) -> bool {
    let end = memchr::memchr_iter(b'\n', bytes).find_map(|at| match bytes[at + 1..] {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    });
    end == Some(bytes.len())
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use hyper::Response;

    use super::*;

    const ASK: &[u8] = b"GET /list HTTP/1.1\r\nhost: here\r\n\r\n";
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n";
    const BODY: Bytes = Bytes::from_static(b"list");

    /// A connection, and what a site does with it; the answers are numbered.
    struct Connection {
        repeats: Repeats<u32>,
        announcements: Announcements<u32>,
    }

    impl Connection {
        fn new() -> Self {
            let (repeats, announcements) = Repeats::new();
            Self {
                repeats,
                announcements,
            }
        }

        /// hyper is given a request in pieces and has the site answer.
        fn ask(&mut self, pieces: &[&[u8]], body: &Bytes, lasting: Option<u32>) -> &mut Self {
            for piece in pieces {
                self.repeats.given(piece);
            }
            let answer = Response::new(Full::new(body.clone()));
            self.announcements.announce(&answer, lasting);
            self
        }

        /// hyper writes, and all of it leaves at once.
        fn write(&mut self, head: &[u8], body: &[u8]) {
            self.repeats.written(head, body, head.len() + body.len());
        }

        /// A request and its answer, which lasts.
        fn exchange(&mut self) {
            self.ask(&[ASK], &BODY, Some(7)).write(HEAD, &BODY);
        }

        /// What is sent when `bytes` come and the answer still holds.
        fn sent_for(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
            let again = self.repeats.is_again(bytes, |lasting| *lasting == 7);
            again.then(|| {
                let sent = self.repeats.unsent().expect("an answer").concat();
                assert!(self.repeats.sent(sent.len()), "the last byte");
                sent
            })
        }
    }

    fn whole() -> Vec<u8> {
        [HEAD, &BODY].concat()
    }

    #[test]
    fn the_same_bytes_get_the_same_answer_for_as_long_as_it_holds() {
        let mut connection = Connection::new();
        assert_eq!(connection.sent_for(ASK), None, "nothing was asked yet");
        connection.exchange();
        for _ in 0..3 {
            assert_eq!(connection.sent_for(ASK), Some(whole()));
        }
        assert_eq!(connection.sent_for(&ASK[1..]), None);
        assert_eq!(connection.sent_for(&[ASK, ASK].concat()), None);
        assert!(!connection.repeats.is_again(ASK, |_| false));
        assert_eq!(connection.repeats.unsent(), None);
        // It comes in pieces, from hyper and to the client.
        connection.ask(&[&ASK[..5], &ASK[5..]], &BODY, Some(7));
        connection.repeats.written(HEAD, &BODY, 3);
        assert_eq!(connection.sent_for(ASK), None, "the answer is on its way");
        connection
            .repeats
            .written(&HEAD[3..], &BODY, HEAD.len() - 3 + BODY.len());
        assert!(connection.repeats.is_again(ASK, |_| true));
        let mut sent = Vec::new();
        while let Some([head, body]) = connection.repeats.unsent() {
            let piece = [head, body].concat();
            sent.extend_from_slice(&piece[..1]);
            let last = piece.len() == 1;
            assert!(
                !connection.repeats.is_again(ASK, |_| true),
                "the answer is on its way"
            );
            assert_eq!(connection.repeats.sent(1), last);
        }
        assert_eq!(sent, whole());
        assert_eq!(connection.sent_for(ASK), Some(whole()));
    }

    #[test]
    fn what_does_not_last_is_not_repeated_and_does_not_end_the_following() {
        let mut connection = Connection::new();
        connection.exchange();
        for body in [Bytes::new(), BODY] {
            connection.ask(&[ASK], &body, None).write(HEAD, &body);
            assert!(connection.repeats.answer.is_none(), "a body is kept for nothing");
            assert_eq!(connection.sent_for(ASK), None);
        }
        connection.ask(&[ASK], &Bytes::new(), Some(7)).write(HEAD, b"");
        assert_eq!(connection.sent_for(ASK), Some(HEAD.to_vec()));
    }

    /// After each of these hyper may hold bytes that have not been answered, or be about to write something else.
    #[test]
    fn where_it_is_not_certain_that_hyper_has_nothing_to_do_nothing_is_repeated() {
        type Case = (&'static str, fn(&mut Connection));
        let cases: [Case; 12] = [
            ("two requests in one piece", |connection| {
                connection.ask(&[ASK, ASK], &BODY, Some(7)).write(HEAD, &BODY);
            }),
            ("the beginning of another request", |connection| {
                connection.ask(&[ASK, b"G"], &BODY, Some(7)).write(HEAD, &BODY);
            }),
            ("a request that came while another was answered", |connection| {
                connection.ask(&[ASK], &BODY, Some(7));
                connection.repeats.written(HEAD, &BODY, 9);
                connection.repeats.given(ASK);
                connection
                    .repeats
                    .written(&HEAD[9..], &BODY, HEAD.len() - 9 + BODY.len());
            }),
            (
                "two requests whose lines end without a carriage return",
                |connection| {
                    let two = b"GET / HTTP/1.1\n\nGET / HTTP/1.1\r\n\r\n";
                    connection.ask(&[two], &BODY, Some(7)).write(HEAD, &BODY);
                },
            ),
            ("half a header", |connection| {
                connection.ask(&[&ASK[..9]], &BODY, Some(7)).write(HEAD, &BODY);
            }),
            ("a header without an end", |connection| {
                let request = [b"GET / HTTP/1.1\r\nlong: ".to_vec(), vec![b'x'; MOST]].concat();
                connection
                    .ask(&[&request, b"\r\n\r\n"], &BODY, Some(7))
                    .write(HEAD, &BODY);
            }),
            ("an answer of hyper's own", |connection| {
                connection.repeats.given(ASK);
                connection.write(HEAD, b"");
            }),
            ("something else before the answer", |connection| {
                connection
                    .ask(&[ASK], &BODY, Some(7))
                    .write(b"HTTP/1.1 100 Continue\r\n\r\n", b"");
                connection.write(HEAD, &BODY);
            }),
            ("another body than was announced", |connection| {
                connection.ask(&[ASK], &BODY, Some(7)).write(HEAD, b"tsil");
            }),
            ("two answers at once", |connection| {
                connection
                    .ask(&[ASK], &BODY, Some(7))
                    .write(&[HEAD, HEAD].concat(), &BODY);
            }),
            ("more than the answer", |connection| {
                connection.ask(&[ASK], &BODY, Some(7));
                connection
                    .repeats
                    .written(HEAD, &BODY, HEAD.len() + BODY.len() + 1);
            }),
            ("something that nobody asked for", |connection| {
                connection.exchange();
                connection.write(HEAD, &BODY);
            }),
        ];
        for (what, happens) in cases {
            let mut connection = Connection::new();
            happens(&mut connection);
            // Neither the request, nor what hyper was given as one, nor ever again.
            assert_eq!(connection.repeats.step, Step::Lost, "{what}");
            assert_eq!(connection.sent_for(ASK), None, "{what}");
            connection.exchange();
            assert_eq!(connection.sent_for(ASK), None, "{what}");
            assert_eq!(connection.repeats.request.capacity(), 0, "{what}");
            // No body is kept that is announced to nobody.
            let body = Bytes::from(vec![0; 9]);
            connection.ask(&[ASK], &body, Some(7));
            assert!(body.is_unique(), "{what}");
        }
    }
}
