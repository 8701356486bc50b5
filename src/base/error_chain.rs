//! Errors with their causes, in one line.

/// An error with its causes in one line, for the boundary that reports it.
#[must_use]
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let told = inner.to_string();
        // Some libraries tell the cause in the error as well: once is enough.
        if !text.ends_with(&told) {
            text.push_str(": ");
            text.push_str(&told);
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
    fn every_cause_is_told_once() {
        let inner = io::Error::new(io::ErrorKind::BrokenPipe, io::Error::other("it is stuck"));
        assert_eq!(error_chain(&Drawer(inner)), "cannot open the drawer: it is stuck");
    }
}
