//! The text formats of `/metrics`: which one a scraper asks for, and the older one made from the newer.
//!
//! `prometheus_client` writes OpenMetrics alone. A scraper that does not ask for it by name gets Prometheus' text format
//! 0.0.4, in which a counter's family has the name of its sample.

use std::collections::HashSet;

/// A text format of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextFormat {
    /// Prometheus' text format 0.0.4, the default.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl TextFormat {
    /// The format that the values of a request's `Accept` headers ask for (RFC 9110, 12.5.1). OpenMetrics has to be named,
    /// and no other text may have a higher weight.
    pub fn accepted<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let mut openmetrics = 0;
        // By precedence: `text/plain`, `text/*`, `*/*`.
        let mut texts = [None; 3];
        for item in accept.into_iter().flat_map(|value| value.split(',')) {
            let mut parts = item.split(';').map(str::trim);
            let range = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut weight, mut version) = (Some(1000), None);
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim().to_ascii_lowercase().as_str() {
                    "q" => weight = quality(value),
                    "version" => version = Some(value.trim().trim_matches('"')),
                    _ => {}
                }
            }
            let Some(weight) = weight else { continue };
            let text = match range.as_str() {
                "application/openmetrics-text" if matches!(version, None | Some("0.0.1" | "1.0.0")) => {
                    openmetrics = openmetrics.max(weight);
                    continue;
                }
                "text/plain" => 0,
                "text/*" => 1,
                "*/*" => 2,
                _ => continue,
            };
            texts[text] = texts[text].max(Some(weight));
        }
        let text = texts.into_iter().flatten().next().unwrap_or(0);
        if openmetrics > 0 && openmetrics >= text {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The value of `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The metrics in this format, from OpenMetrics text.
    #[must_use]
    pub fn write(self, openmetrics: String) -> String {
        match self {
            Self::Prometheus => prometheus(&openmetrics),
            Self::OpenMetrics => openmetrics,
        }
    }
}

/// A weight (`q`) in thousandths; `None` if it is malformed (RFC 9110, 12.4.2).
#[must_use]
pub fn quality(text: &str) -> Option<u16> {
    let text = text.trim();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let thousandths: u16 = format!("{fraction:0<3}").parse().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

fn prometheus(openmetrics: &str) -> String {
    let about = |line: &'_ str| -> Option<(String, String, String)> {
        let mut words = line.strip_prefix("# ")?.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        Some((word(), word(), word()))
    };
    let counters: HashSet<String> = openmetrics
        .lines()
        .filter_map(about)
        .filter_map(|(keyword, family, kind)| (keyword == "TYPE" && kind == "counter").then_some(family))
        .collect();
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        match about(line) {
            None => text.push_str(line),
            Some((keyword, family, rest)) if keyword == "HELP" || keyword == "TYPE" => {
                let suffix = if counters.contains(&family) { "_total" } else { "" };
                text.push_str(&format!("# {keyword} {family}{suffix} {rest}"));
            }
            // `UNIT` and `EOF`.
            Some(_) => continue,
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_names_counters_by_their_samples_and_has_no_end() {
        let openmetrics = "# HELP a_reads Reads of a.\n# TYPE a_reads counter\na_reads_total{x=\"# y\"} 1\n\
            # HELP a_age_seconds Age.\n# TYPE a_age_seconds gauge\n# UNIT a_age_seconds seconds\na_age_seconds 2.5\n\
            # TYPE a_time histogram\na_time_sum 1.0\na_time_count 1\na_time_bucket{le=\"+Inf\"} 1\n# EOF\n";
        assert_eq!(
            TextFormat::Prometheus.write(openmetrics.to_owned()),
            "# HELP a_reads_total Reads of a.\n# TYPE a_reads_total counter\na_reads_total{x=\"# y\"} 1\n\
            # HELP a_age_seconds Age.\n# TYPE a_age_seconds gauge\na_age_seconds 2.5\n\
            # TYPE a_time histogram\na_time_sum 1.0\na_time_count 1\na_time_bucket{le=\"+Inf\"} 1\n"
        );
        assert_eq!(TextFormat::OpenMetrics.write(openmetrics.to_owned()), openmetrics);
    }

    #[test]
    fn openmetrics_has_to_be_named_with_a_weight_that_no_other_text_exceeds() {
        use TextFormat::{OpenMetrics, Prometheus};
        for (accept, format) in [
            ("", Prometheus),
            ("*/*", Prometheus),
            ("application/*", Prometheus),
            ("application/openmetrics-text", OpenMetrics),
            ("application/openmetrics-text; version=\"1.0.0\"", OpenMetrics),
            ("application/openmetrics-text;version=0.0.1,*/*", OpenMetrics),
            ("application/openmetrics-text;version=3.0.0,*/*", Prometheus),
            ("application/openmetrics-text;q=0.5,*/*;q=0.6", Prometheus),
            // The more specific range decides about text.
            (
                "application/openmetrics-text;q=0.5,text/plain;q=0.4,*/*",
                OpenMetrics,
            ),
            ("application/openmetrics-text;q=0.5,text/*;q=0.4,*/*", OpenMetrics),
            ("application/openmetrics-text;q=x", Prometheus),
            ("application/openmetrics-text;q=0", Prometheus),
        ] {
            assert_eq!(TextFormat::accepted([accept]), format, "{accept}");
        }
    }
}
