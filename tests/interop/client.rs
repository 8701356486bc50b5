//! A Python client that calls the warm-ups, and our worker that runs them.

use serde_json::{Value, json};
use tradebot_test_support::{Python, Reply};

use crate::fleet::{
    BOT_TASK, FUTURES_OK, FUTURES_PATH, Fleet, OURS, PYTHON_OK, SPOT_OK, SPOT_PATH, WARMUP_FUTURES,
    WARMUP_SPOT, WITH_WARMUPS, listing, text,
};

#[tokio::test]
async fn both_warm_ups_return_the_number_of_symbols_to_a_python_client() {
    for python in Python::ALL {
        let fleet = Fleet::start(python).await;
        let _worker = fleet.worker();
        // By name, as scripts do, and through the task itself, as `.delay()` in the API does.
        let answers = fleet.send(&[
            json!({"name": WARMUP_SPOT, "wait": 30}),
            json!({"name": WARMUP_FUTURES, "wait": 30, "registered": true}),
        ]);
        for (answer, expected) in answers.iter().zip([SPOT_OK, FUTURES_OK]) {
            assert_eq!(answer["state"], "SUCCESS", "{answer}");
            assert_eq!(answer["result"], expected);
        }
        let lists = fleet.lists();
        for (market, count) in [("spot", 3), ("futures", 2)] {
            let list = &lists[format!("cache:symbols:{market}:v1")]["value"];
            assert_eq!(list.as_array().map(Vec::len), Some(count));
            assert_eq!(list[0]["symbol"], "BTCUSDT");
        }
    }
}

#[tokio::test]
async fn options_that_producers_set_on_a_call_are_honoured() {
    let options = [
        json!({"countdown": 2}),
        json!({"expires": 120}),
        json!({"priority": 0}),
        json!({"priority": 4}),
        json!({"priority": 9}),
        json!({"serializer": "json"}),
        json!({"compression": "zlib"}),
        json!({"compression": "gzip"}),
        json!({"headers": {"x-trace": "41", "x-nested": {"a": [1, null]}}}),
        json!({"time_limit": 60, "soft_time_limit": 50}),
        json!({"task_id": "an id of the producer's own", "shadow": "warm-up", "queue": "celery"}),
    ];
    let order = |options: &Value| json!({"name": WARMUP_SPOT, "options": options, "wait": 30});
    let orders: Vec<Value> = options.iter().map(order).collect();
    for python in Python::ALL {
        let fleet = Fleet::start(python).await;
        let _worker = fleet.worker();
        let answers = fleet.send(&orders);
        for (options, answer) in options.iter().zip(&answers) {
            assert_eq!(answer["result"], SPOT_OK, "{options}: {answer}");
            let seconds = |name: &str| answer[name].as_f64().expect("Unix seconds");
            let taken = seconds("done") - seconds("sent");
            let countdown = options["countdown"].as_f64().unwrap_or(0.0);
            assert!(taken >= countdown, "{options} took {taken} s");
        }
        assert_eq!(answers[10]["id"], "an id of the producer's own");
        assert_eq!(fleet.exchange.count(SPOT_PATH), options.len(), "one run each");
        fleet.wait_until_all_is_done().await;
    }
}

#[tokio::test]
async fn an_expired_warm_up_is_not_run_and_its_client_is_told() {
    for python in Python::ALL {
        let fleet = Fleet::start(python).await;
        let _worker = fleet.worker();
        // Expired when it is sent, and expired before its time comes.
        let answers = fleet.send(&[
            json!({"name": WARMUP_SPOT, "options": {"expires": -5}, "wait": 30}),
            json!({"name": WARMUP_SPOT, "options": {"countdown": 2, "expires": 1}, "wait": 30}),
        ]);
        for answer in answers {
            let exception = &answer["exception"];
            assert_eq!(answer["state"], "REVOKED", "{answer}");
            assert_eq!(exception["type"], "TaskRevokedError");
            assert_eq!(exception["module"], "celery.exceptions");
            assert_eq!(exception["message"], "expired");
        }
        assert_eq!(fleet.exchange.count(SPOT_PATH), 0);
    }
}

#[tokio::test]
async fn an_ignored_result_is_not_stored_as_with_a_python_worker() {
    let orders = [
        json!({"name": WARMUP_SPOT, "options": {"ignore_result": true}, "wait": 5}),
        json!({"name": WARMUP_SPOT, "wait": 30}),
    ];
    for python in Python::ALL {
        let (ours, theirs) = (Fleet::start(python).await, Fleet::start(python).await);
        let _workers = (ours.worker(), theirs.python_worker(&[WITH_WARMUPS]));
        let mut seen = Vec::new();
        for (fleet, result) in [(&ours, SPOT_OK), (&theirs, PYTHON_OK)] {
            let answers = fleet.send(&orders);
            assert_eq!(answers[1]["result"], result);
            fleet.wait_until_all_is_done().await;
            let key = format!("celery-task-meta-{}", text(&answers[0]["id"]));
            let stored: Option<String> = fleet.ask(redis::cmd("GET").arg(key)).await;
            seen.push((answers[0]["state"].clone(), answers[0]["result"].clone(), stored));
        }
        assert_eq!(ours.number("metrics:warmup_spot_symbols_cache:success").await, 2);
        assert_eq!(theirs.ran().await.len(), 2);
        assert_eq!(seen[0], seen[1]);
        assert_eq!(seen[0].2, None);
    }
}

#[tokio::test]
async fn callbacks_and_chains_go_on_in_python_with_the_result_prepended() {
    let on_ours = json!({"queue": OURS});
    let bot = |argument: &str| json!({"name": BOT_TASK, "args": [argument], "kwargs": {"k": 1}});
    let orders = [
        json!({"name": WARMUP_SPOT, "options": on_ours, "link": bot("linked"), "wait": 30}),
        json!({"chain": [
            {"name": WARMUP_FUTURES, "options": on_ours},
            bot("chained"),
            {"name": WARMUP_SPOT, "options": on_ours, "immutable": true},
            bot("last"),
        ], "wait": 30}),
    ];
    for python in Python::ALL {
        let fleet = Fleet::start(python).await;
        let _workers = (fleet.worker_on(OURS), fleet.python_worker(&[]));
        let answers = fleet.send(&orders);
        let (linked, chain) = (&answers[0]["id"], &answers[1]["ids"]);
        for (member, result) in [json!(FUTURES_OK), Value::Null, json!(SPOT_OK), Value::Null]
            .iter()
            .enumerate()
        {
            let outcome = &answers[1]["outcomes"][member];
            assert_eq!(
                (&outcome["state"], &outcome["result"]),
                (&json!("SUCCESS"), result),
                "{outcome}"
            );
        }

        let runs = fleet.wait_for_runs(3).await;
        // Whose result came first, and the workflow as Python sees it.
        for (argument, result, id, parent, root) in [
            ("linked", SPOT_OK, None, linked, linked),
            ("chained", FUTURES_OK, Some(&chain[1]), &chain[0], &chain[0]),
            ("last", SPOT_OK, Some(&chain[3]), &chain[2], &chain[0]),
        ] {
            let run = runs.iter().find(|run| run["args"][1] == argument).expect("a run");
            assert_eq!(run["args"], json!([result, argument]));
            assert_eq!(run["kwargs"], json!({"k": 1}));
            assert!(id.is_none_or(|id| run["id"] == *id), "{run}");
            assert_eq!((&run["parent_id"], &run["root_id"]), (parent, root), "{run}");
        }
        assert_eq!(runs.len(), 3, "{runs:?}");
    }
}

#[tokio::test]
async fn a_final_failure_raises_the_fitting_exception_that_names_the_url() {
    let order = |name: &str| json!({"name": name, "options": {"retries": 5}, "wait": 30});
    let orders = [order(WARMUP_SPOT), order(WARMUP_FUTURES)];
    for python in Python::ALL {
        let fleet = Fleet::start(python).await;
        let _worker = fleet.worker();
        let down = Reply::status(500, "down");
        let nothing_listed = Reply::json(r#"{"symbols": []}"#);
        for round in [
            [
                (SPOT_PATH, down, "RuntimeError", "status 500: down"),
                (
                    FUTURES_PATH,
                    Reply::json("<html>"),
                    "ValueError",
                    "not a JSON object",
                ),
            ],
            [
                (SPOT_PATH, Reply::raw(""), "ConnectionError", "cut off or damaged"),
                (
                    FUTURES_PATH,
                    nothing_listed,
                    "ValueError",
                    "no trading futures symbol",
                ),
            ],
        ] {
            for (path, reply, ..) in &round {
                fleet.exchange.always(path, reply.clone());
            }
            for ((_, _, kind, reason), answer) in round.iter().zip(fleet.send(&orders)) {
                let (exception, traceback) = (&answer["exception"], text(&answer["traceback"]));
                assert_eq!(answer["state"], "FAILURE", "{answer}");
                assert_eq!(
                    (&exception["type"], &exception["module"]),
                    (&json!(kind), &json!("builtins"))
                );
                let message = text(&exception["message"]);
                assert_eq!(exception["args"], json!([message]));
                assert!(message.contains(&fleet.exchange.base_url()), "{message}");
                assert!(message.contains(reason), "{message}");
                assert!(
                    traceback.ends_with(&format!("\n{kind}: {message}\n")),
                    "{traceback}"
                );
            }
        }
    }
}

#[tokio::test]
async fn errbacks_in_python_are_called_with_the_id_of_the_failed_warm_up() {
    let order = json!({
        "name": WARMUP_SPOT, "options": {"queue": OURS, "retries": 5}, "wait": 30,
        "link": {"name": BOT_TASK, "args": ["callback"]},
        "link_error": [{"name": BOT_TASK, "args": ["errback"]}, {"name": BOT_TASK, "immutable": true}],
    });
    for python in Python::ALL {
        let fleet = Fleet::start(python).await;
        fleet.exchange.always(SPOT_PATH, Reply::status(500, ""));
        let _workers = (fleet.worker_on(OURS), fleet.python_worker(&[]));
        let failed = &fleet.send(std::slice::from_ref(&order))[0];
        assert_eq!(failed["state"], "FAILURE", "{failed}");
        let mut runs = fleet.wait_for_runs(2).await;
        runs.sort_by_key(|run| run["args"].as_array().map(Vec::len));
        assert_eq!(runs[0]["args"], json!([]), "the immutable one");
        assert_eq!(runs[1]["args"], json!([failed["id"], "errback"]));
        assert!(
            runs.iter().all(|run| run["parent_id"] == failed["id"]),
            "{runs:?}"
        );
        assert_eq!(runs.len(), 2, "no callback after a failure: {runs:?}");
    }
}

#[tokio::test]
async fn a_warm_up_that_was_retried_ends_in_success_for_the_client_that_waits() {
    for python in Python::ALL {
        let fleet = Fleet::start(python).await;
        fleet
            .exchange
            .always(SPOT_PATH, Reply::status(503, "maintenance"));
        fleet.exchange.reply(SPOT_PATH, listing(&["BTC", "ETH", "AAVE"]));
        let _worker = fleet.worker();
        let answer = &fleet.send(&[json!({"name": WARMUP_SPOT, "wait": 30})])[0];
        assert_eq!(answer["result"], SPOT_OK, "{answer}");
        assert_eq!(fleet.exchange.count(SPOT_PATH), 2);
        fleet.wait_until_all_is_done().await;
    }
}

#[tokio::test]
async fn arguments_that_a_warm_up_does_not_take_raise_type_error() {
    let cases = [
        (
            json!([1]),
            json!({}),
            "takes 0 positional arguments but 1 was given",
        ),
        (
            json!([1, null]),
            json!({}),
            "takes 0 positional arguments but 2 were given",
        ),
        (
            json!([]),
            json!({"force": true}),
            "got an unexpected keyword argument 'force'",
        ),
    ];
    let orders = cases
        .clone()
        .map(|(args, kwargs, _)| json!({"name": WARMUP_SPOT, "args": args, "kwargs": kwargs, "wait": 30}));
    for python in Python::ALL {
        let fleet = Fleet::start(python).await;
        let _worker = fleet.worker();
        for ((.., reason), answer) in cases.iter().zip(fleet.send(&orders)) {
            let exception = &answer["exception"];
            assert_eq!(answer["state"], "FAILURE", "{answer}");
            assert_eq!(
                (&exception["type"], &exception["module"]),
                (&json!("TypeError"), &json!("builtins"))
            );
            assert_eq!(
                exception["message"],
                format!("warmup_spot_symbols_cache() {reason}")
            );
        }
        assert_eq!(fleet.exchange.count(SPOT_PATH), 0, "nothing was run or retried");
    }
}

#[test]
fn node_names_are_those_of_celery() {
    let patterns = [
        "w", "@x", "w@", "w@x", "w@x.y.z", "%h", "w@%h", "w@%n", "w@%d", "w1.%d", "%i", "w%I", "%%", "w%%%x",
        "%p", "", "@", "a@b@c", "w%n@%h", "w@%%h", "100%", "a% b",
    ];
    for python in Python::ALL {
        // Celery 5.5 has no `%%`.
        let escapes = |pattern: &&&str| python == Python::CELERY_NEWEST || !pattern.contains("%%");
        let patterns: Vec<&str> = patterns.iter().filter(escapes).copied().collect();
        let theirs = python.script("node_names.py", &[&json!(patterns).to_string()], &[]);
        for (pattern, theirs) in patterns.iter().zip(theirs.as_array().expect("a list")) {
            let name = tradebot_base::node::expand(pattern, &tradebot_base::node::machine()).ok();
            let ours = name.map(|name| {
                let formatted = tradebot_base::node::format("%n %h %d %p %i%I", &name);
                json!([name, formatted.expect("a pattern")])
            });
            assert_eq!(
                ours.unwrap_or_default(),
                *theirs,
                "{pattern} under {}",
                python.name()
            );
        }
    }
}
