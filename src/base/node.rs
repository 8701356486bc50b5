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

/// Expands a node name: `%h` is the full machine name, `%n` its first part, `%d` the rest, `%%` a percent sign. Appends
/// the machine's name to a name without `@`.
#[must_use]
pub fn expand(pattern: &str, machine: &str) -> String {
    let (first, domain) = machine.split_once('.').unwrap_or((machine, ""));
    let name = substitute(pattern, [first, machine, domain]);
    if name.contains('@') {
        name
    } else {
        format!("{name}@{machine}")
    }
}

/// Puts a node's name into a pattern, such as a file name: `%n` is the part before the `@`, `%h` the part after it, `%d`
/// what follows its first dot, `%%` a percent sign.
#[must_use]
pub fn format(pattern: &str, node: &str) -> String {
    let (name, host) = node.split_once('@').unwrap_or((node, ""));
    let domain = host.split_once('.').map_or("", |(_, domain)| domain);
    substitute(pattern, [name, host, domain])
}

fn substitute(pattern: &str, [n, h, d]: [&str; 3]) -> String {
    let parts = pattern.split("%%");
    let parts = parts.map(|part| part.replace("%n", n).replace("%h", h).replace("%d", d));
    parts.collect::<Vec<_>>().join("%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_expand_as_in_celery() {
        assert_eq!(expand("celery@%h", "box.example.com"), "celery@box.example.com");
        assert_eq!(expand("w1@%n", "box.example.com"), "w1@box");
        assert_eq!(
            expand("w1.%d", "box.example.com"),
            "w1.example.com@box.example.com"
        );
        assert_eq!(expand("w%%%x", "box"), "w%%x@box");
        assert_eq!(format("/run/%n-%h-%d%%n.state", "w@b.c"), "/run/w-b.c-c%n.state");
        assert!(!machine().is_empty());
    }
}
