//! Node names: `name@host`, as Celery's `-n` writes them.

/// Name of this machine; `localhost` if unknown.
#[must_use]
pub fn machine() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".into())
}

/// The name before the `@` if a pattern has none, Celery's `NODENAME_DEFAULT`.
const DEFAULT_NAME: &str = "celery";

/// Expands a node name as Celery does (`celery.utils.nodenames`). What has no `@` is the host, and a part that is missing is
/// `celery` or the machine's name. `%h` is the full machine name, `%n` its first part, `%d` the rest, `%%` a percent sign;
/// `%i` is `0` and `%I` nothing, as in Celery's main process.
///
/// # Errors
/// When another letter follows a percent sign.
pub fn expand(pattern: &str, machine: &str) -> Result<String, String> {
    let (name, host) = pattern.split_once('@').unwrap_or(("", pattern));
    let or = |part: &str, other: &str| {
        if part.is_empty() {
            other.to_owned()
        } else {
            part.to_owned()
        }
    };
    let pattern = format!("{}@{}", or(name, DEFAULT_NAME), or(host, machine));
    let (first, domain) = machine.split_once('.').unwrap_or((machine, ""));
    substitute(&pattern, &[('h', machine), ('n', first), ('d', domain)])
}

/// Puts a node's name into a pattern, such as a file name: `%n` is the part before the `@`, `%h` the part after it, `%d`
/// what follows its first dot, `%p` all of it, and the others as in [`expand`].
///
/// # Errors
/// When another letter follows a percent sign.
pub fn format(pattern: &str, node: &str) -> Result<String, String> {
    let (name, host) = node.split_once('@').unwrap_or((DEFAULT_NAME, node));
    let own = machine();
    let host = if host.is_empty() { &own } else { host };
    let domain = host.split_once('.').map_or("", |(_, domain)| domain);
    substitute(pattern, &[('h', host), ('n', name), ('d', domain), ('p', node)])
}

fn substitute(pattern: &str, values: &[(char, &str)]) -> Result<String, String> {
    const OWN: [(char, &str); 3] = [('i', "0"), ('I', ""), ('%', "%")];
    let mut text = String::new();
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        let letter = after
            .chars()
            .next()
            .filter(|c| c.is_alphanumeric() || "_%".contains(*c));
        let Some(letter) = letter else {
            text.push('%');
            rest = after;
            continue;
        };
        let known = values.iter().chain(&OWN).find(|(known, _)| *known == letter);
        let (_, value) =
            known.ok_or_else(|| format!("`%{letter}` stands for nothing, write `%%` for a percent sign"))?;
        text.push_str(value);
        rest = &after[letter.len_utf8()..];
    }
    Ok(text + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beside Python: `interop::client::node_names_are_those_of_celery`.
    #[test]
    fn patterns_expand_as_in_celery() {
        for (pattern, name) in [
            ("celery@%h", "celery@box.example.com"),
            ("w1@%n", "w1@box"),
            ("w1.%d", "celery@w1.example.com"),
            ("w", "celery@w"),
            ("w@", "w@box.example.com"),
            ("@x", "celery@x"),
            ("%i%I@100%", "0@100%"),
            ("a@b@c", "a@b@c"),
        ] {
            assert_eq!(
                expand(pattern, "box.example.com").as_deref(),
                Ok(name),
                "{pattern}"
            );
        }
        let error = expand("w%%%x", "box").unwrap_err();
        assert!(error.contains("`%x`"), "{error}");
        let path = format("/run/%n-%h-%d%%n%I.state", "w@b.c");
        assert_eq!(path.as_deref(), Ok("/run/w-b.c-c%n.state"));
        assert!(!machine().is_empty());
    }
}
