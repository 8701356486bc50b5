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
        assert!(!machine().is_empty());
    }
}
