//! `/metrics`. Every number is kept elsewhere and read at the scrape.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::durations::Durations;
use crate::product::binance::client::used_weight;
use crate::product::binance::skew::clock_offset;
use crate::product::credentials::user_lists::UserLists;
use crate::product::fleet::overview::Overview;
use crate::product::http::server::ConnectionCounts;
use crate::product::symbols::reads::SymbolReads;
use crate::product::work_durations::{REFRESHES, UPSTREAM_REQUESTS, WorkDurations};
use tradebot_base::market::Market;
use tradebot_core::engine::{Engine, Phase};

/// Responses since the start.
#[derive(Debug, Default)]
pub(crate) struct ResponseCounts {
    /// By class of status, 1xx to 5xx.
    classes: [AtomicU64; 5],
}

impl ResponseCounts {
    pub(crate) fn count(&self, status: hyper::StatusCode) {
        if let Some(count) = self
            .classes
            .get(usize::from(status.as_u16() / 100).saturating_sub(1))
        {
            count.fetch_add(1, Relaxed);
        }
    }
}

/// Where a scrape finds its numbers.
#[derive(Clone)]
pub(crate) struct MetricSources {
    pub(crate) reads: SymbolReads,
    pub(crate) responses: Arc<ResponseCounts>,
    pub(crate) durations: Arc<Durations>,
    pub(crate) connections: Arc<ConnectionCounts>,
    pub(crate) worker: Option<Arc<Engine>>,
    pub(crate) branch: Option<Arc<UserLists>>,
    pub(crate) overview: Option<Arc<Overview>>,
}

impl fmt::Debug for MetricSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricSources").finish_non_exhaustive()
    }
}

/// The text of a scrape, as OpenMetrics.
///
/// # Errors
/// When a name or a label cannot be encoded.
pub(crate) fn text(sources: MetricSources) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("tradebot_symbols");
    registry.register_collector(Box::new(sources));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

/// Writes metric families.
struct FamilyWriter<'a, 'e>(&'a mut DescriptorEncoder<'e>);

impl FamilyWriter<'_, '_> {
    fn family(
        &mut self,
        (name, help): (&str, &str),
        kind: MetricType,
        mut write: impl FnMut(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        write(&mut self.0.encode_descriptor(name, help, None, kind)?)
    }

    fn counters<L: EncodeLabelSet>(
        &mut self,
        about: (&str, &str),
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut values = values.into_iter();
        self.family(about, MetricType::Counter, |family| {
            values.try_for_each(|(labels, value)| {
                family
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, _, u64>(&value, None)
            })
        })
    }

    fn work_durations(&mut self, about: (&str, &str), durations: &WorkDurations) -> fmt::Result {
        self.family(about, MetricType::Histogram, |family| {
            durations.samples().try_for_each(|sample| {
                let count = sample.buckets.iter().map(|(_, count)| count).sum();
                family
                    .encode_family(&[("market", sample.market), ("outcome", sample.outcome)])?
                    .encode_histogram::<NoLabelSet>(sample.seconds, count, &sample.buckets, None)
            })
        })
    }

    fn gauge(&mut self, about: (&str, &str), value: f64) -> fmt::Result {
        self.family(about, MetricType::Gauge, |family| family.encode_gauge(&value))
    }

    fn gauges<L: EncodeLabelSet>(
        &mut self,
        about: (&str, &str),
        values: impl IntoIterator<Item = (L, f64)>,
    ) -> fmt::Result {
        let mut values = values.into_iter();
        self.family(about, MetricType::Gauge, |family| {
            values.try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
        })
    }
}

impl Collector for MetricSources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = FamilyWriter(&mut encoder);
        self.lists(&mut families)?;
        self.http(&mut families)?;
        if let Some(branch) = &self.branch {
            families.counters(
                (
                    "own_keys",
                    "Requests with a token that missed the list, by what became of the user's key",
                ),
                branch.outcomes().map(|(end, count)| ([("end", end)], count)),
            )?;
        }
        if let Some(engine) = &self.worker {
            worker(engine, &mut families)?;
        }
        if let Some(overview) = &self.overview {
            deployment(overview, &mut families)?;
        }
        Ok(())
    }
}

impl MetricSources {
    fn lists(&self, families: &mut FamilyWriter<'_, '_>) -> fmt::Result {
        let all = Market::ALL.map(|market| ([("market", market.name())], self.reads.status(market)));
        let each = || all.iter().map(|(labels, status)| (*labels, status));
        families.counters(
            ("hits", "Reads by this process that found a fresh list"),
            each().map(|(labels, status)| (labels, status.hits)),
        )?;
        families.counters(
            ("misses", "Reads by this process that did not"),
            each().map(|(labels, status)| (labels, status.misses)),
        )?;
        let reading = |value: fn(&crate::product::symbols::reads::Reading) -> Option<f64>| {
            each().filter_map(move |(labels, status)| Some((labels, value(status.reading.as_ref()?)?)))
        };
        families.gauges(
            ("list_age_seconds", "Time since the refresh that made the list"),
            reading(|reading| reading.age.map(|age| age.as_secs_f64())),
        )?;
        families.gauges(
            ("list_symbols", "Symbols in the list"),
            reading(|reading| Some(whole(reading.list.count()))),
        )?;
        families.gauges(
            ("list_stale", "1 when the lifetime of the list has ended"),
            reading(|reading| Some(f64::from(u8::from(reading.stale)))),
        )?;
        families.counters(
            (
                "lists_refused",
                "Lists of other programs in Redis that this process refused",
            ),
            each().map(|(labels, status)| (labels, status.refused)),
        )?;
        families.counters(
            (
                "refreshes",
                "Refreshes by this process for its readers, by outcome",
            ),
            each().flat_map(|([(_, market)], status)| {
                let labels = |outcome| [("market", market), ("outcome", outcome)];
                [
                    (labels("success"), status.refreshes),
                    (labels("error"), status.failures),
                ]
            }),
        )?;
        families.gauges(
            (
                "last_refresh_duration_seconds",
                "How long this process's last refresh took",
            ),
            each().filter_map(|(labels, status)| Some((labels, status.last_refresh_took?.as_secs_f64()))),
        )?;
        families.work_durations(
            (
                "refresh_duration_seconds",
                "Durations of this process's refreshes, of warm-ups and for its readers, by outcome",
            ),
            &REFRESHES,
        )?;
        families.work_durations(
            (
                "upstream_request_duration_seconds",
                "Durations of this process's requests of lists to the exchange, by outcome",
            ),
            &UPSTREAM_REQUESTS,
        )?;
        families.gauges(
            (
                "upstream_used_weight",
                "Request weight that the exchange last said this machine has used within a minute",
            ),
            Market::ALL.into_iter().filter_map(|market| {
                let used = used_weight(market).and_then(|used| usize::try_from(used).ok())?;
                Some(([("market", market.name())], whole(used)))
            }),
        )?;
        families.gauges(
            (
                "upstream_clock_offset_seconds",
                "The exchange's clock less this machine's, as of its last answer",
            ),
            Market::ALL
                .into_iter()
                .filter_map(|market| Some(([("market", market.name())], clock_offset(market)?))),
        )?;
        families.gauge(
            ("redis_up", "1 when Redis answered when this process last asked"),
            f64::from(u8::from(self.reads.is_connected())),
        )
    }

    fn http(&self, families: &mut FamilyWriter<'_, '_>) -> fmt::Result {
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        let answers = classes.into_iter().zip(&self.responses.classes);
        families.counters(
            ("http_answers", "Answers by class of status"),
            answers.map(|(class, count)| ([("class", class)], count.load(Relaxed))),
        )?;
        families.family(
            (
                "http_request_duration_seconds",
                "Time from a request's header to its answer, by route and status",
            ),
            MetricType::Histogram,
            |family| {
                self.durations.samples().try_for_each(|sample| {
                    family
                        .encode_family(&sample.labels)?
                        .encode_histogram::<NoLabelSet>(sample.seconds, sample.count, &sample.buckets, None)
                })
            },
        )?;
        let counts = &self.connections;
        let connections = [
            ("accepted", &counts.accepted),
            ("refused", &counts.refused),
            ("cut", &counts.cut),
        ];
        families.counters(
            ("http_connections", "Connections by what became of them"),
            connections.map(|(fate, count)| ([("fate", fate)], count.load(Relaxed))),
        )?;
        #[expect(
            clippy::cast_precision_loss,
            reason = "a count of connections is far below 2^53"
        )]
        let open = counts.open.load(Relaxed) as f64;
        families.gauge(("http_connections_open", "Connections open now"), open)
    }
}

fn worker(engine: &Engine, families: &mut FamilyWriter<'_, '_>) -> fmt::Result {
    let tasks: Vec<_> = engine
        .task_types()
        .map(|task| (task.name(), task.outcomes().counts()))
        .collect();
    families.counters(
        ("task_outcomes", "Executions by their end"),
        tasks.iter().flat_map(|(task, counts)| {
            counts
                .ends
                .iter()
                .map(move |(end, count)| ([("task", *task), ("outcome", *end)], *count))
        }),
    )?;
    families.family(
        ("task_runtime_seconds", "Runtime of executions"),
        MetricType::Histogram,
        |family| {
            tasks.iter().try_for_each(|(task, counts)| {
                let executions = counts.runtimes.iter().map(|(_, count)| count).sum();
                family
                    .encode_family(&[("task", *task)])?
                    .encode_histogram::<NoLabelSet>(
                        counts.runtime_seconds,
                        executions,
                        &counts.runtimes,
                        None,
                    )
            })
        },
    )?;
    families.gauge(
        ("tasks_active", "Tasks that run now"),
        whole(engine.events().active()),
    )?;
    families.gauge(
        ("tasks_scheduled", "Messages held until their eta"),
        whole(engine.requests().in_phase(Phase::Scheduled).len()),
    )?;
    match engine.last_round() {
        Some(age) => families.gauge(
            (
                "consumer_silence_seconds",
                "Time since the broker last answered the consumer",
            ),
            age.as_secs_f64(),
        ),
        None => Ok(()),
    }
}

fn deployment(overview: &Overview, families: &mut FamilyWriter<'_, '_>) -> fmt::Result {
    let markets = Market::ALL.map(|market| (market.name(), *overview.counters.get(market)));
    families.counters(
        ("deployment_reads", "Reads by all processes, the Python ones too"),
        markets.iter().flat_map(|(market, counters)| {
            let labels = |result| [("market", *market), ("result", result)];
            [(labels("hit"), counters.hits), (labels("miss"), counters.misses)]
        }),
    )?;
    families.counters(
        ("deployment_refreshes", "Refreshes by the tasks of all processes"),
        markets.iter().flat_map(|(market, counters)| {
            let labels = |outcome| [("market", *market), ("outcome", outcome)];
            [
                (labels("success"), counters.successes),
                (labels("error"), counters.errors),
            ]
        }),
    )?;
    let number = |count: u64| whole(usize::try_from(count).unwrap_or(usize::MAX));
    families.gauges(
        ("queue_messages", "Messages that wait on a queue"),
        overview
            .queues
            .iter()
            .map(|queue| ([("queue", queue.name.as_str())], number(queue.messages))),
    )?;
    families.gauges(
        (
            "foreign_tasks_waiting",
            "Messages on our queues that wait for other workers",
        ),
        overview
            .totals
            .waiting_for_others
            .iter()
            .map(|(task, count)| ([("task", task.as_str())], number(*count))),
    )?;
    families.gauge(
        (
            "parked_messages",
            "Messages that no worker could read, or that killed three",
        ),
        number(overview.totals.parked),
    )?;
    let live = overview.workers.iter().filter(|worker| worker.leased).count();
    families.gauge(("workers_live", "Workers that hold their lease"), whole(live))?;
    families.gauge(
        ("beats_live", "Beats that say that they live"),
        whole(overview.beats.len()),
    )
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of things in memory are far below 2^53"
)]
fn whole(count: usize) -> f64 {
    count as f64
}
