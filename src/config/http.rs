//! The section of the HTTP endpoint.

use std::time::Duration;

use tradebot_base::config::Reader;

/// The HTTP endpoint.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// The address to listen on, if one is set.
    pub listen: Option<String>,
    /// Status of an answer to a request for a list that cannot be had: 503, or 500 as the existing system has it.
    pub error_status: u16,
    /// The only origin whose scripts may read answers; `None` lets all.
    pub only_origin: Option<String>,
    /// Connections at a time.
    pub max_connections: usize,
    /// Bytes of a request's header.
    pub max_header_bytes: usize,
    /// Bytes of a request's body.
    pub max_body_bytes: usize,
    /// For the header of a request to arrive.
    pub header_timeout: Duration,
    /// Between two requests of a connection.
    pub idle_timeout: Duration,
    /// For a client to take an answer.
    pub send_timeout: Duration,
    /// For a request to be answered.
    pub request_timeout: Duration,
    /// How long other caches may go on with an old list while no new one can be had.
    pub stale_if_error: Duration,
}

impl HttpConfig {
    /// Reads the section.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let environment = reader.text("ENVIRONMENT").to_ascii_lowercase();
        let frontend = reader.text("FRONTEND_URL");
        let error_status = reader.text("SYMBOLS_ERROR_STATUS");
        if !["500", "503"].contains(&error_status.as_str()) {
            reader.complain("SYMBOLS_ERROR_STATUS", &error_status, "`503` or `500`");
        }
        let mut bytes = |name, range| usize::try_from(reader.number(name, range)).unwrap_or(usize::MAX);
        Self {
            max_connections: bytes("HTTP_MAX_CONNECTIONS", 1..=1_000_000),
            max_header_bytes: bytes("HTTP_MAX_HEADER_BYTES", 8192..=1_048_576),
            max_body_bytes: bytes("HTTP_MAX_BODY_BYTES", 0..=1_048_576),
            listen: reader.optional("HTTP_LISTEN"),
            error_status: if error_status == "500" { 500 } else { 503 },
            only_origin: (environment == "production").then(|| frontend.trim_end_matches('/').to_owned()),
            header_timeout: reader.seconds("HTTP_HEADER_TIMEOUT_SECONDS"),
            idle_timeout: reader.seconds("HTTP_IDLE_TIMEOUT_SECONDS"),
            send_timeout: reader.seconds("HTTP_SEND_TIMEOUT_SECONDS"),
            request_timeout: reader.seconds("HTTP_REQUEST_TIMEOUT_SECONDS"),
            stale_if_error: reader.seconds("HTTP_STALE_IF_ERROR_SECONDS"),
        }
    }
}
