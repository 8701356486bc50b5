//! Signed requests: the exchange's clock and its account endpoint.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::exchange::Request;
use crate::reply::Reply;

/// The path of the clock.
pub(crate) const TIME: &str = "/api/v3/time";
/// The path that needs a signature.
pub(crate) const ACCOUNT: &str = "/api/v3/account";
/// How far ahead of the exchange's clock a timestamp may be, in ms.
const AHEAD_MS: i64 = 1_000;

/// The known keys with their secrets, and the exchange's clock.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    pub(crate) secrets: HashMap<String, String>,
    /// How far the exchange's clock is ahead of this machine's.
    pub(crate) ahead_ms: i64,
}

impl Accounts {
    pub(crate) fn answer(&self, request: &Request) -> Reply {
        if request.path == TIME {
            return Reply::json(format!(r#"{{"serverTime":{}}}"#, self.now_ms()));
        }
        match self.check(request) {
            Ok(()) => Reply::json(r#"{"accountType":"SPOT","balances":[],"permissions":["SPOT"]}"#),
            Err((status, code, message)) => {
                Reply::status(status, format!(r#"{{"code":{code},"msg":"{message}"}}"#))
            }
        }
    }

    /// Checks a request as the exchange does: same order, same codes.
    fn check(&self, request: &Request) -> Result<(), (u16, i32, &'static str)> {
        let key = request.header("x-mbx-apikey").unwrap_or_default();
        if key.len() != 64 || !key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err((401, -2014, "API-key format invalid."));
        }
        let refused = (401, -2015, "Invalid API-key, IP, or permissions for action.");
        let secret = self.secrets.get(key).ok_or(refused)?;
        let missing = (400, -1102, "A mandatory parameter was not sent.");
        let (signed, signature) = request.query.rsplit_once("&signature=").ok_or(missing)?;
        let number = |name: &str| parameter(signed, name)?.parse::<i64>().ok();
        let timestamp = number("timestamp").ok_or(missing)?;
        let window = number("recvWindow").unwrap_or(5_000);
        let now = self.now_ms();
        if timestamp >= now + AHEAD_MS || now - timestamp > window {
            return Err((
                400,
                -1021,
                "Timestamp for this request is outside of the recvWindow.",
            ));
        }
        if !signature.eq_ignore_ascii_case(&sign(secret, signed)) {
            return Err((400, -1022, "Signature for this request is not valid."));
        }
        Ok(())
    }

    fn now_ms(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.expect("a clock after 1970").as_millis();
        i64::try_from(now).expect("milliseconds fit an i64") + self.ahead_ms
    }
}

fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .into_iter()
        .find(|(known, _)| *known == name)
        .map(|(_, value)| value)
}

fn sign(secret: &str, query: &str) -> String {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret.as_bytes()).expect("a key of any length");
    mac.update(query.as_bytes());
    mac.finalize()
        .into_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "KKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKKK";

    fn code(accounts: &Accounts, key: &str, query: &str) -> i32 {
        let request = Request {
            method: "GET".into(),
            path: ACCOUNT.into(),
            query: query.into(),
            headers: vec![("x-mbx-apikey".into(), key.into())],
        };
        accounts.check(&request).map_or_else(|(_, code, _)| code, |()| 0)
    }

    #[test]
    fn keys_times_and_signatures_are_checked() {
        let accounts = Accounts {
            secrets: HashMap::from([(KEY.into(), "secret".into())]),
            ahead_ms: 3_600_000,
        };
        let signed = |offset: i64, secret: &str| {
            let query = format!("recvWindow=5000&timestamp={}", accounts.now_ms() + offset);
            let signature = sign(secret, &query);
            format!("{query}&signature={signature}")
        };
        assert_eq!(code(&accounts, KEY, &signed(0, "secret")), 0);
        assert_eq!(code(&accounts, KEY, &signed(0, "another")), -1022);
        assert_eq!(code(&accounts, KEY, &signed(60_000, "secret")), -1021);
        assert_eq!(code(&accounts, KEY, &signed(-60_000, "secret")), -1021);
        assert_eq!(code(&accounts, KEY, "timestamp=1"), -1102);
        assert_eq!(code(&accounts, &KEY.to_lowercase(), &signed(0, "secret")), -2015);
        assert_eq!(code(&accounts, "short", &signed(0, "secret")), -2014);
    }
}
