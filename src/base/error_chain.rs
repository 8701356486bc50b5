//! Errors with their causes, in one line.

/// The text of an error with its causes, for logs and reports.
#[must_use]
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        // Some libraries include the cause in the error's own text.
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the drawer")]
    struct Drawer(#[source] io::Error);

    #[test]
    fn every_cause_appears_once() {
        let inner = io::Error::new(io::ErrorKind::BrokenPipe, io::Error::other("it is stuck"));
        assert_eq!(error_chain(&Drawer(inner)), "cannot open the drawer: it is stuck");
    }
}
