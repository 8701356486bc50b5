//! Why a server refuses a command: the right or the key that is at fault, which its answer does not name.
//!
//! `NOPERM` and `WRONGTYPE` name no key, and an error inside a script names no command either. So after such an answer the
//! keys of the command are asked for their types: a key that the user may not access refuses that too.

use redis::aio::MultiplexedConnection;
use redis::{Arg, Cmd, RedisError, RedisResult, ServerError};

/// The code of a server that does not let the user do something.
pub(super) const FORBIDDEN: &str = "NOPERM";
const WRONG_TYPE: &str = "WRONGTYPE";
/// How servers begin such an error inside a script, before Redis 7.2 and since. It has the code `ERR` there.
const FORBIDDEN_IN_SCRIPT: [&str; 2] = ["The user executing the script can't", "ACL failure in script"];
/// How many keys of a command are looked at, and how many of them are named.
const LOOKED_AT: usize = 500;
const NAMED: usize = 4;

/// The code of a server's error. The Redis client has none for some errors within a pipeline.
pub(super) fn code_of(error: &RedisError) -> Option<String> {
    let errors = error.clone().into_server_errors();
    let Some(first) = errors.as_ref().and_then(|errors| errors.first()) else {
        return error.code().filter(|_| !error.is_io_error()).map(str::to_owned);
    };
    let (_, first) = first;
    Some(code_of_server(first).to_owned())
}

fn code_of_server(error: &ServerError) -> &str {
    let details = error.details().unwrap_or_default();
    if FORBIDDEN_IN_SCRIPT.iter().any(|text| details.contains(text)) {
        return FORBIDDEN;
    }
    error.code()
}

/// What an operator has to know about a single word as the host that leads nowhere; empty for other errors.
pub(super) fn unknown_host(url: &str, error: &RedisError) -> String {
    let unknown = error.to_string().contains("failed to lookup address");
    let url = url::Url::parse(url).ok().filter(|_| unknown);
    let host = url.as_ref().and_then(|url| url.host_str());
    host.filter(|host| !host.contains('.')).map_or(String::new(), |host| {
        format!(
            " (`{host}` has no address here; if it is a service of docker compose, run this program in its network, or put \
             localhost and the published port into the URL)"
        )
    })
}

/// What an operator has to know about a refusal with this code beside the server's words; empty for most codes.
pub(super) async fn hint(code: &str, commands: &[&Cmd], socket: &mut MultiplexedConnection) -> String {
    if code != FORBIDDEN && code != WRONG_TYPE {
        return String::new();
    }
    let mut keys: Vec<&[u8]> = commands.iter().flat_map(|command| keys_of(command)).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.truncate(LOOKED_AT);
    let types = types_of(&keys, socket).await;
    if code == WRONG_TYPE {
        return wrong_types(&keys, &types);
    }
    let denied = |found: &RedisResult<String>| {
        // A user may lack the right to ask, too: that says nothing about the key.
        found.as_ref().is_err_and(|error| {
            code_of(error).as_deref() == Some(FORBIDDEN) && !error.to_string().contains("to run the")
        })
    };
    let mut missing: Vec<String> = keys
        .iter()
        .zip(&types)
        .filter(|(_, found)| denied(found))
        .map(|(key, _)| format!("the key `{}` (`~`)", text(key)))
        .collect();
    missing.extend(commands.iter().filter_map(|command| channel_of(command)));
    lacks(&missing)
}

/// The words for missing rights; without one, the server's own words name the command.
pub(super) fn lacks(missing: &[String]) -> String {
    let what = match missing {
        [] => "a command (`+`) or to write a key (`%W~`)".to_owned(),
        few if few.len() <= NAMED => few.join(", "),
        many => format!("{} and {} more", many[..NAMED].join(", "), many.len() - NAMED),
    };
    format!(
        ": its user lacks the right to {what}; grant it with `ACL SETUSER`, docs/redis.md lists all rights"
    )
}

/// Names the keys of the refused command that exist, those of the rarest types first: a server does not say which of a
/// script's keys is the wrong one.
fn wrong_types(keys: &[&[u8]], types: &[RedisResult<String>]) -> String {
    let found = keys
        .iter()
        .zip(types)
        .filter_map(|(key, found)| Some((key, found.as_deref().ok()?)));
    let existing: Vec<_> = found.filter(|(_, found)| *found != "none").collect();
    let mut rarest_first = existing.clone();
    rarest_first.sort_by_key(|(_, kind)| existing.iter().filter(|(_, other)| other == kind).count());
    let named = rarest_first.iter().take(NAMED);
    let named: Vec<String> = named
        .map(|(key, kind)| format!("`{}` holds a {kind}", text(key)))
        .collect();
    format!(
        ": the key {}; find out which program wrote the one of a wrong type, then rename or delete it",
        named.join(", ")
    )
}

/// The type of each key.
async fn types_of(keys: &[&[u8]], socket: &mut MultiplexedConnection) -> Vec<RedisResult<String>> {
    if keys.is_empty() {
        return Vec::new();
    }
    let mut ask = redis::pipe();
    ask.ignore_errors();
    for key in keys {
        ask.cmd("TYPE").arg(*key);
    }
    // If the server does not answer, there is no hint.
    ask.query_async(socket).await.unwrap_or_default()
}

/// The keys of a command that this system sends.
fn keys_of(command: &Cmd) -> Vec<&[u8]> {
    let words: Vec<&[u8]> = words(command);
    let Some((name, rest)) = words.split_first() else {
        return Vec::new();
    };
    match *name {
        b"EVALSHA" => {
            let count = rest.get(1).and_then(|count| std::str::from_utf8(count).ok());
            let count: usize = count.and_then(|count| count.parse().ok()).unwrap_or(0);
            rest.get(2..2 + count).unwrap_or_default()
        }
        b"DEL" | b"EXISTS" | b"MGET" => rest,
        b"PING" | b"TIME" | b"INFO" | b"CONFIG" | b"SCAN" | b"SCRIPT" | b"PUBLISH" | b"CLIENT" => &[],
        _ => rest.get(..1).unwrap_or_default(),
    }
    .to_vec()
}

fn channel_of(command: &Cmd) -> Option<String> {
    let words = words(command);
    let channel = words.get(1).filter(|_| words[0] == b"PUBLISH")?;
    Some(channel_right(&text(channel)))
}

/// The right to use a channel.
pub(super) fn channel_right(name: &str) -> String {
    format!("the channel `{name}` (`&`)")
}

fn words(command: &Cmd) -> Vec<&[u8]> {
    let simple = command.args_iter().filter_map(|word| match word {
        Arg::Simple(word) => Some(word),
        _ => None,
    });
    simple.collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_a_command_are_found() {
        let script = redis::Script::new("return 1");
        let mut call = script.prepare_invoke();
        call.key("a").key("b\u{6}\u{16}3").arg("no key");
        let mut pipeline = redis::pipe();
        pipeline.invoke_script(&call);
        pipeline.cmd("MGET").arg("c").arg("d");
        pipeline.cmd("HSET").arg("e").arg("field").arg("value");
        pipeline.cmd("PUBLISH").arg("channel").arg("text");
        let keys: Vec<&[u8]> = pipeline.cmd_iter().flat_map(keys_of).collect();
        let expected = ["a", "b\u{6}\u{16}3", "c", "d", "e"];
        assert_eq!(keys, expected.map(str::as_bytes));
        let channels: Vec<String> = pipeline.cmd_iter().filter_map(channel_of).collect();
        assert_eq!(channels, ["the channel `channel` (`&`)"]);
    }
}
