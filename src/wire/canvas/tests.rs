use super::*;
use crate::timestamp;

fn sig(task: &str, id: &str) -> Value {
    json!({"task": task, "args": [10], "kwargs": {}, "options": {"task_id": id, "reply_to": "q"},
        "subtask_type": null, "immutable": false})
}

fn group(tasks: &[Value]) -> Value {
    json!({"task": "celery.group", "args": [], "kwargs": {"tasks": tasks}, "options": {},
        "subtask_type": "group", "immutable": false})
}

fn chord(header: &[Value], body: &Value) -> Value {
    json!({"task": "celery.chord", "args": [], "kwargs": {"kwargs": {}, "header": header, "body": body},
        "options": {}, "subtask_type": "chord", "immutable": false})
}

fn body(embed: &Value) -> Body {
    Body {
        embed: embed.as_object().cloned().unwrap(),
        ..Body::default()
    }
}

fn context() -> CanvasContext<'static> {
    CanvasContext {
        task_id: "h",
        root: Some("r"),
        origin: "gen1@h",
        default_queue: "celery",
        now: timestamp::parse("2026-11-23T10:00:00Z").unwrap(),
    }
}

fn plan(embed: &Value) -> SuccessorPlan {
    after_success(context(), &body(embed), &json!(7))
}

fn run(embed: &Value) -> Vec<Successor> {
    plan(embed).successors
}

fn ids(successors: &[Successor]) -> Vec<&str> {
    successors.iter().map(|next| next.message.id()).collect()
}

#[test]
fn the_next_of_a_chain_gets_the_result_first_and_takes_the_rest_along() {
    let published = run(&json!({"chain": [sig("last", "l"), sig("next", "n")]}));
    let [next] = published.as_slice() else {
        panic!("{published:?}")
    };
    assert_eq!(
        (next.queue.as_str(), next.message.task(), next.message.id()),
        ("celery", "next", "n")
    );
    assert_eq!(next.message.text("root_id"), Some("r"));
    assert_eq!(next.message.text("parent_id"), Some("h"));
    assert_eq!(next.message.property("reply_to"), Some(json!("q")));
    let body = next.message.body().unwrap();
    assert_eq!(body.args, [json!(7), json!(10)]);
    assert_eq!(body.embedded("chain"), [sig("last", "l")]);
}

#[test]
fn one_callback_is_a_plain_task_and_several_are_a_group() {
    let one = run(&json!({"callbacks": [sig("a", "1")]}));
    assert_eq!(one[0].message.header("group"), None);
    let two = run(&json!({"callbacks": [sig("a", "1"), sig("b", "2")]}));
    assert_eq!(two[0].message.header("group"), two[1].message.header("group"));
    assert!(two[0].message.header("group").is_some());
    assert_eq!(two[1].message.header("group_index"), Some(json!(1)));
}

#[test]
fn callbacks_that_form_a_group_are_one_child_of_the_result() {
    let several = json!({"callbacks": [sig("a", "1"), sig("b", "2")], "chain": [sig("next", "n")]});
    let plan = plan(&several);
    let group = plan.successors[0].message.header("group");
    assert_eq!(
        json!(plan.children),
        json!([
            [[group, null], [[["1", null], null], [["2", null], null]]],
            [["n", null], null]
        ])
    );
    let one = after_success(
        context(),
        &body(&json!({"callbacks": [sig("a", "1")]})),
        &json!(7),
    );
    assert_eq!(json!(one.children), json!([[["1", null], null]]));
}

#[test]
fn immutable_signatures_keep_their_arguments_and_options_reach_the_message() {
    let mut link = sig("a", "1");
    link["immutable"] = json!(true);
    link["options"]["queue"] = json!("other");
    link["options"]["priority"] = json!(6);
    link["options"]["countdown"] = json!(2.5);
    link["options"]["expires"] = json!(60);
    link["options"]["soft_time_limit"] = json!(3);
    link["options"]["link"] = sig("b", "2");
    let published = run(&json!({"callbacks": [link]}));
    let message = &published[0].message;
    assert_eq!(published[0].queue, "other");
    assert_eq!(message.priority().step(&crate::envelope::PRIORITY_STEPS), 6);
    assert_eq!(message.text("eta"), Some("2026-11-23T10:00:02.500000+00:00"));
    assert_eq!(message.text("expires"), Some("2026-11-23T10:01:00+00:00"));
    assert_eq!(message.timelimit(), (None, Some(3.0)));
    let body = message.body().unwrap();
    assert_eq!(body.args, [json!(10)]);
    assert_eq!(body.embedded("callbacks"), [sig("b", "2")]);
}

#[test]
fn an_errback_is_called_with_the_id_of_the_failed_task() {
    let published = after_failure(context(), &[sig("e", "1")]).successors;
    assert_eq!(published[0].message.body().unwrap().args, [json!("h"), json!(10)]);
    let failed = abandoned(&[sig("last", "l"), sig("next", "n")]);
    let ids: Vec<&str> = failed.iter().map(|failed| failed.message.id()).collect();
    assert_eq!(ids, ["l", "n"]);
}

#[test]
fn a_group_is_published_at_once_and_is_one_child() {
    let plan = plan(&json!({"chain": [group(&[sig("a", "1"), sig("b", "2"), group(&[sig("c", "3")])])]}));
    assert_eq!(ids(&plan.successors), ["1", "2", "3"]);
    let header = |name: &str| -> Vec<Value> {
        let headers = plan.successors.iter().map(|next| next.message.header(name));
        headers.map(Option::unwrap).collect()
    };
    assert!(header("group").iter().all(|group| group == &header("group")[0]));
    assert_eq!(header("parent_id"), ["h"; 3]);
    assert_eq!(header("root_id"), ["r"; 3]);
    assert_eq!(plan.children.len(), 1);
    assert_eq!(plan.children[0][1].as_array().map(Vec::len), Some(3));
    assert!(plan.preparations.is_empty());
    for next in &plan.successors {
        assert_eq!(next.message.body().unwrap().args, [json!(7), json!(10)]);
    }
}

#[test]
fn a_chord_is_counted_before_it_is_published_and_its_header_knows_the_body() {
    let chord = chord(&[sig("a", "1"), sig("b", "2")], &sig("sum", "s"));
    let plan = plan(&json!({"chain": [sig("last", "l"), chord]}));
    assert_eq!(ids(&plan.successors), ["1", "2"]);
    let group = plan.successors[0].message.text("group").unwrap().to_owned();
    assert_eq!(plan.preparations, [Preparation::ChordSize { group, size: 2 }]);
    for next in &plan.successors {
        let body = next.message.body().unwrap();
        let chord = &body.embed["chord"];
        assert_eq!(chord["options"]["task_id"], "s");
        // What follows the chord follows its body, and not the header.
        assert_eq!(chord["options"]["chain"], json!([sig("last", "l")]));
        assert!(body.embedded("chain").is_empty());
        assert_eq!(body.args, [json!(7), json!(10)]);
    }
    let body = plan.successors[0].message.body().unwrap().embed["chord"].clone();
    let after = after_header(context(), &body, vec![json!(1), json!(2)]).successors;
    assert_eq!(ids(&after), ["s"]);
    let message = after[0].message.body().unwrap();
    assert_eq!(message.args, [json!([1, 2]), json!(10)]);
    assert_eq!(message.embedded("chain"), [sig("last", "l")]);
}

#[test]
fn a_header_with_chains_and_chords_counts_what_ends_them() {
    let chain = json!({"task": "celery.chain", "kwargs": {"tasks": [sig("a", "1"), sig("b", "2")]},
        "subtask_type": "chain"});
    let inner = chord(
        &[sig("c", "3"), sig("d", "4")],
        &group(&[sig("e", "5"), sig("f", "6")]),
    );
    let plan = plan(&json!({"callbacks": [chord(&[chain, inner], &sig("sum", "s"))]}));
    assert_eq!(ids(&plan.successors), ["1", "3", "4"]);
    let first = plan.successors[0].message.body().unwrap();
    assert!(
        first.embed.get("chord").is_none_or(Value::is_null),
        "only the end of a chain is waited for"
    );
    assert_eq!(
        first.embedded("chain")[0]["options"]["chord"]["options"]["task_id"],
        "s"
    );
    let sizes: Vec<usize> = plan
        .preparations
        .iter()
        .filter_map(|preparation| match preparation {
            Preparation::ChordSize { size, .. } => Some(*size),
            _ => None,
        })
        .collect();
    assert_eq!(sizes.iter().sum::<usize>(), 3 + 2, "{sizes:?}");
    // The results of the inner body are a group within the results of the header.
    let saved = plan
        .preparations
        .iter()
        .find_map(|preparation| match preparation {
            Preparation::SavedGroup { result, .. } => Some(result.clone()),
            _ => None,
        });
    let saved = saved.expect("a saved group");
    let part = |id: &str, value: i64| json!([1, id, "SUCCESS", value]);
    assert_eq!(
        join(&[part("2", 20), part("5", 50), part("6", 60)], Some(&saved)),
        Joined::Results(vec![json!(20), json!([50, 60])])
    );
}

#[test]
fn a_failed_part_fails_the_body_and_its_chain() {
    let failure = json!({"exc_type": "ValueError", "exc_message": ["boom", 42], "exc_module": "builtins"});
    let parts = [json!([1, "a", "SUCCESS", 1]), json!([1, "b", "FAILURE", failure])];
    let Joined::Failed { error, cause } = join(&parts, None) else {
        panic!("a failure")
    };
    assert_eq!(error.kind, "ChordError");
    assert_eq!(
        error.message,
        [json!("Dependency b raised ValueError('boom', 42)")]
    );
    assert_eq!(cause.map(|cause| cause.kind).as_deref(), Some("ValueError"));
    let mut body = sig("sum", "s");
    body["options"]["chain"] = json!([sig("last", "l")]);
    let failed = abandoned_body(&body);
    let ids: Vec<&str> = failed.iter().map(|failed| failed.message.id()).collect();
    assert_eq!(ids, ["s", "l"]);
}

#[test]
fn chunks_become_a_group_of_starmaps() {
    let chunks = json!({"task": "celery.chunks", "kwargs": {"task": sig("add", "x"), "it": [[1, 2], [3, 4], [5, 6]],
        "n": 2}, "subtask_type": "chunks", "immutable": true});
    let published = run(&json!({"callbacks": [chunks]}));
    let its: Vec<Value> = published
        .iter()
        .map(|next| next.message.body().unwrap().kwargs["it"].clone())
        .collect();
    assert_eq!(its, [json!([[1, 2], [3, 4]]), json!([[5, 6]])]);
    assert!(
        published
            .iter()
            .all(|next| next.message.task() == "celery.starmap")
    );
}

#[test]
fn stamps_are_kept_where_they_are_and_passed_on() {
    let mut link = sig("a", "1");
    link["options"]["stamped_headers"] = json!(["trace"]);
    link["options"]["trace"] = json!("x");
    let published = run(&json!({"callbacks": [link]}));
    let message = &published[0].message;
    assert_eq!(message.header("stamped_headers"), Some(json!(["trace"])));
    assert_eq!(message.header("stamps"), Some(json!({"trace": "x"})));
}

#[test]
fn what_cannot_be_carried_on_is_recognised_before_it_runs() {
    let odd = json!({"task": "x", "subtask_type": "sequence"});
    assert!(beyond_us(&body(&json!({"chord": odd}))).is_some());
    assert!(beyond_us(&body(&json!({"chain": [sig("l", "1"), odd]}))).is_some());
    assert!(beyond_us(&body(&json!({"callbacks": ["x"]}))).is_some());
    let mut routed = sig("x", "1");
    routed["options"]["exchange"] = json!("topics");
    routed["options"]["routing_key"] = json!("a.b");
    assert!(beyond_us(&body(&json!({"chain": [group(&[routed])]}))).is_some());
    // Only the next step matters: the worker that runs it handles the ones behind it.
    assert!(beyond_us(&body(&json!({"chain": [odd, sig("n", "1")]}))).is_none());
    assert!(beyond_us(&Body::default()).is_none());
}

#[test]
fn unknown_members_of_a_signature_survive() {
    let mut known = chord(&[sig("a", "1")], &sig("b", "2"));
    known["chord_size"] = json!(3);
    let mut read = Signature::read(&known).unwrap().to_value();
    for value in [&mut read, &mut known] {
        value.as_object_mut().unwrap().sort_keys();
    }
    assert_eq!(read, known);
}

#[test]
fn a_member_chord_of_a_body_that_does_not_run_fails_as_its_own_body() {
    let errback = sig("told", "e");
    let mut inner = chord(&[sig("a", "1")], &sig("sum", "inner"));
    inner["options"] = json!({"task_id": "header", "link_error": [errback]});
    let body = group(&[inner, sig("sum", "plain")]);
    let failed: Vec<String> = abandoned_body(&body)
        .iter()
        .map(|one| one.message.id().to_owned())
        .collect();
    assert_eq!(failed, ["inner", "plain"]);
    assert_eq!(
        errbacks_of_body(&body),
        [("inner".to_owned(), vec![errback]), ("plain".to_owned(), vec![])]
    );
}

/// Celery leaves ids as they are given, so the client of each step looks for a UUID object.
#[test]
fn an_id_that_is_a_uuid_object_stays_one_for_every_step() {
    let typed = |digit: &str| json!({"__type__": "uuid", "__value__": {"hex": digit.repeat(32)}});
    let step = |digit: &str| {
        let mut step = sig("next", "");
        step["options"]["task_id"] = typed(digit);
        step
    };
    let published = run(&json!({"chain": [step("3"), step("2")]}));
    let message = &published[0].message;
    assert_eq!(message.id(), "22222222-2222-2222-2222-222222222222");
    assert_eq!(message.header("id"), Some(typed("2")));
    assert_eq!(message.body().unwrap().embedded("chain"), [step("3")]);
    assert_eq!(
        result::document(
            message,
            &result::TaskState::Success(json!(1)),
            &[],
            context().now,
            None
        )
        .matches(&typed("2").to_string().replace(':', ": ").replace(',', ", "))
        .count(),
        1
    );
}
