//! Node names: `name@host`, as Celery's `-n` writes them.

/// Name of this machine; `localhost` if the system does not tell.
#[must_use]
pub fn machine() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".into())
}

/// Expands a node name: `%h` is the full machine name, `%n` its first part, `%d` the rest, `%%` a percent
/// sign. A name without `@` gets the machine's name behind it.
#[must_use]
pub fn expand(pattern: &str, machine: &str) -> String {
    let (first, domain) = machine.split_once('.').unwrap_or((machine, ""));
    let mut name = String::new();
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            name.push(character);
            continue;
        }
        match characters.next() {
            Some('h') => name.push_str(machine),
            Some('n') => name.push_str(first),
            Some('d') => name.push_str(domain),
            Some('%') | None => name.push('%'),
            Some(other) => name.extend(['%', other]),
        }
    }
    if name.contains('@') {
        name
    } else {
        format!("{name}@{machine}")
    }
}

/// Puts a node's name into a pattern, of a file's name for example: `%n` is the part before its `@`, `%h` the part
/// behind, `%d` what follows its first dot, `%%` a percent sign.
#[must_use]
pub fn format(pattern: &str, node: &str) -> String {
    let (name, host) = node.split_once('@').unwrap_or((node, ""));
    let domain = host.split_once('.').map_or("", |(_, domain)| domain);
    let parts = pattern
        .split("%%")
        .map(|part| part.replace("%n", name).replace("%h", host).replace("%d", domain));
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
