//! The status page: one HTML document with its style and a few lines of script inside.

use std::fmt::{self, Write};
use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use chrono::{DateTime, Utc};
use hyper::header::{self, HeaderValue};
use sha2::{Digest, Sha256};

use crate::product::fleet::overview::Overview;
use crate::product::fleet::readiness::Readiness;
use crate::product::fleet::span;
use crate::product::http::answers::responses::uncached;
use crate::product::http::server::HttpResponse;
use crate::product::symbols::cache::ListNetwork;
use crate::product::symbols::changes::Change;
use crate::product::symbols::reads::MarketStatus;
use tradebot_base::market::{Market, PerMarket};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The page loads nothing and runs only its own script.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)));
    format!(
        "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
});

/// The figures of the status page.
pub(crate) struct StatusPage<'a> {
    pub(crate) now: DateTime<Utc>,
    pub(crate) readiness: &'a Readiness,
    pub(crate) lists: PerMarket<MarketStatus>,
    /// Seconds between two refreshes, where they are scheduled.
    pub(crate) interval: PerMarket<Option<u64>>,
    pub(crate) overview: Option<&'a Overview>,
    /// Newest first; `None` if Redis cannot be read.
    pub(crate) changes: Option<Vec<Change>>,
}

/// The response with the page.
pub(crate) fn response(figures: &StatusPage<'_>) -> HttpResponse {
    let mut text = String::with_capacity(16 * 1024);
    // Writing to a `String` cannot fail.
    let _ = figures.write(&mut text);
    let mut response = uncached(HeaderValue::from_static("text/html; charset=utf-8"), text);
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&POLICY) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// A text, escaped for HTML.
struct Escaped<T>(T);

impl<T: fmt::Display> fmt::Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.to_string().chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

impl StatusPage<'_> {
    fn write(&self, page: &mut String) -> fmt::Result {
        write!(
            page,
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <title>Symbol lists</title><link rel=\"icon\" href=\"data:,\"><style>{STYLE}</style></head>\
             <body><header><h1>Symbol lists</h1><p id=\"freshness\" class=\"bad\" role=\"status\"></p></header><main>"
        )?;
        self.state(page)?;
        page.push_str("<div class=\"lists\">");
        for market in Market::ALL {
            self.list(page, market)?;
        }
        page.push_str("</div>");
        self.processes(page)?;
        self.changes(page)?;
        write!(
            page,
            "<footer><p>{} UTC, tradebot-symbols {}</p></footer></main><script>{SCRIPT}</script></body></html>",
            self.now.format("%Y-%m-%d %H:%M:%S"),
            env!("CARGO_PKG_VERSION")
        )
    }

    fn state(&self, page: &mut String) -> fmt::Result {
        write!(
            page,
            "<p id=\"state\">This endpoint is {}.</p>",
            self.readiness.status
        )?;
        let wrong = self.readiness.reasons.iter().chain(&self.readiness.warnings);
        let mut wrong = wrong.peekable();
        if wrong.peek().is_some() {
            page.push_str("<ul>");
            for reason in wrong {
                write!(page, "<li class=\"bad\">{}", reason.code.replace('_', " "))?;
                for part in [reason.market.map(str::to_owned), reason.detail.clone()]
                    .into_iter()
                    .flatten()
                {
                    write!(page, ": {}", Escaped(part))?;
                }
                page.push_str("</li>");
            }
            page.push_str("</ul>");
        }
        Ok(())
    }

    fn list(&self, page: &mut String, market: Market) -> fmt::Result {
        let status = self.lists.get(market);
        let name = market.name();
        write!(
            page,
            "<section class=\"list\" aria-labelledby=\"{name}\"><h2 id=\"{name}\">{name}</h2><dl>"
        )?;
        let mut figure = |id: &str, label: &str, value: String| {
            write!(
                page,
                "<dt>{label}</dt><dd id=\"{name}-{id}\">{}</dd>",
                Escaped(value)
            )
        };
        match &status.reading {
            None => figure("count", "symbols", "no list".to_owned())?,
            Some(reading) => {
                figure("count", "symbols", reading.list.count().to_string())?;
                let age = reading.age.map_or("unknown".to_owned(), |age| {
                    span(i64::try_from(age.as_secs()).unwrap_or(i64::MAX))
                });
                figure("age", "age", age)?;
                let left = match reading.ttl {
                    None => "no end".to_owned(),
                    Some(ttl) if ttl < 0 => format!("ended {} ago", span(ttl.saturating_abs())),
                    Some(ttl) => format!("{} left", span(ttl.saturating_abs())),
                };
                figure("lifetime", "lifetime", left)?;
                let source = reading.list.source();
                let source = source.map_or("written by Python".to_owned(), |source| match source.network {
                    ListNetwork::Mainnet => source.host.clone(),
                    ListNetwork::Testnet => format!("{} (TESTNET)", source.host),
                    ListNetwork::Sandbox => format!("{} (SANDBOX: nothing is real)", source.host),
                });
                figure("source", "source", source)?;
                let at = reading.list.fetched_at();
                figure("refreshed", "last refresh", at.map_or("unknown".to_owned(), time))?;
                let next = self.interval.get(market).zip(at).map(|(interval, at)| {
                    time(at.saturating_add(i64::try_from(interval).unwrap_or(i64::MAX)))
                });
                figure(
                    "due",
                    "next due",
                    next.unwrap_or_else(|| "not scheduled".to_owned()),
                )?;
            }
        }
        let (hits, misses) = self.overview.map_or((status.hits, status.misses), |overview| {
            let counters = overview.counters.get(market);
            (counters.hits, counters.misses)
        });
        let ratio = match hits.checked_add(misses) {
            None | Some(0) => "no reads yet".to_owned(),
            // Rounded down: 100 % means no miss at all.
            Some(reads) => format!("{} % of {reads}", u128::from(hits) * 100 / u128::from(reads)),
        };
        figure("hits", "hits", ratio)?;
        if let Some(overview) = self.overview {
            let counters = overview.counters.get(market);
            let refreshes = format!("{}, {} failed", counters.successes, counters.errors);
            figure("refreshes", "refreshes by tasks", refreshes)?;
        }
        page.push_str("</dl></section>");
        Ok(())
    }

    fn processes(&self, page: &mut String) -> fmt::Result {
        page.push_str("<h2>Workers and beats</h2>");
        let Some(overview) = self.overview else {
            page.push_str("<p class=\"bad\">Redis does not say.</p>");
            return Ok(());
        };
        page.push_str("<ul id=\"workers\">");
        for worker in &overview.workers {
            let state = if worker.leased {
                "lives"
            } else {
                "<span class=\"bad\">does not answer</span>"
            };
            write!(page, "<li>worker {}: {state}</li>", Escaped(&worker.node))?;
        }
        if overview.workers.is_empty() {
            page.push_str("<li>no worker of this kind</li>");
        }
        page.push_str("</ul><ul id=\"beats\">");
        for beat in &overview.beats {
            write!(
                page,
                "<li>beat {} ({}), process {}",
                Escaped(beat.host()),
                Escaped(beat.version()),
                Escaped(&beat.heartbeat["pid"])
            )?;
            if beat.leads() {
                page.push_str(", leads");
            }
            if let Some(next) = beat.next_due() {
                write!(page, ", next task at {}", time(next))?;
            }
            page.push_str("</li>");
        }
        if overview.beats.is_empty() {
            page.push_str("<li>no beat of this kind</li>");
        }
        page.push_str("</ul><ul id=\"queues\">");
        for queue in &overview.queues {
            let (name, waiting) = (Escaped(&queue.name), queue.messages);
            write!(page, "<li>queue {name}: {waiting} waiting</li>")?;
        }
        for (task, waiting) in &overview.totals.waiting_for_others {
            write!(page, "<li>{waiting} for other workers: {}</li>", Escaped(task))?;
        }
        let parked = overview.totals.parked;
        if parked > 0 {
            write!(page, "<li class=\"bad\">{parked} messages are parked</li>")?;
        }
        page.push_str("</ul>");
        Ok(())
    }

    fn changes(&self, page: &mut String) -> fmt::Result {
        page.push_str("<h2>Recent changes</h2>");
        let changes = match &self.changes {
            None => return write!(page, "<p class=\"bad\">Redis does not say.</p>"),
            Some(changes) if changes.is_empty() => return write!(page, "<p>None yet.</p>"),
            Some(changes) => changes,
        };
        page.push_str(
            "<div class=\"scroll\"><table id=\"changes\"><thead><tr><th scope=\"col\">time</th>\
             <th scope=\"col\">market</th><th scope=\"col\">change</th></tr></thead><tbody>",
        );
        for change in changes {
            write!(
                page,
                "<tr><td>{}</td><td>{}</td><td>",
                time(change.at),
                change.market
            )?;
            let names = |symbols: &[crate::product::binance::exchange_info::Symbol]| {
                let names: Vec<&str> = symbols
                    .iter()
                    .map(|symbol| symbol.symbol.as_str())
                    .take(20)
                    .collect();
                let more = symbols.len().saturating_sub(names.len());
                let more = if more > 0 {
                    format!(" and {more} more")
                } else {
                    String::new()
                };
                names.join(" ") + &more
            };
            let mut parts = Vec::new();
            for (verb, symbols) in [("added", &change.diff.added), ("removed", &change.diff.removed)] {
                if !symbols.is_empty() {
                    parts.push(format!("{verb} {}", names(symbols)));
                }
            }
            for status in change.diff.status_changed.iter().take(20) {
                parts.push(format!("{}: {} → {}", status.symbol, status.from, status.to));
            }
            write!(page, "{}</td></tr>", Escaped(parts.join("; ")))?;
        }
        page.push_str("</tbody></table></div>");
        Ok(())
    }
}

fn time(unix_seconds: i64) -> String {
    DateTime::from_timestamp(unix_seconds, 0).map_or("unknown".to_owned(), |at| {
        at.format("%Y-%m-%d %H:%M:%S").to_string()
    })
}
