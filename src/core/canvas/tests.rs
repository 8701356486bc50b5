use serde_json::Map;

use super::*;
use crate::core::wire::timestamp;

fn parent() -> Envelope {
    Envelope::parse(br#"{"headers": {"task": "head", "id": "h", "root_id": "r"}}"#).unwrap()
}

fn sig(task: &str, id: &str) -> Value {
    json!({"task": task, "args": [10], "kwargs": {}, "options": {"task_id": id, "reply_to": "q"},
        "subtask_type": null, "immutable": false})
}

fn run(embed: Value) -> Vec<Successor> {
    let message = parent();
    let body = Body {
        embed: embed.as_object().cloned().unwrap(),
        ..Body::default()
    };
    let now = timestamp::parse("2026-11-23T10:00:00Z").unwrap();
    let context = Context {
        message: &message,
        body: &body,
        origin: "gen1@h",
        default_queue: "celery",
        now,
    };
    after_success(context, &json!(7))
}

#[test]
fn the_next_of_a_chain_gets_the_result_first_and_takes_the_rest_along() {
    let published = run(json!({"chain": [sig("last", "l"), sig("next", "n")]}));
    let [next] = published.as_slice() else {
        panic!("{published:?}")
    };
    assert_eq!(
        (next.queue.as_str(), next.message.task(), next.message.id()),
        ("celery", "next", "n")
    );
    assert_eq!(next.message.text("root_id"), Some("r"));
    assert_eq!(next.message.text("parent_id"), Some("h"));
    assert_eq!(next.message.property("reply_to"), Some(&json!("q")));
    let body = next.message.body().unwrap();
    assert_eq!(body.args, [json!(7), json!(10)]);
    assert_eq!(body.embedded("chain"), [sig("last", "l")]);
}

#[test]
fn one_callback_is_a_plain_task_and_several_are_a_group() {
    let one = run(json!({"callbacks": [sig("a", "1")]}));
    assert_eq!(one[0].message.header("group"), None);
    let two = run(json!({"callbacks": [sig("a", "1"), sig("b", "2")]}));
    assert_eq!(two[0].message.header("group"), two[1].message.header("group"));
    assert!(two[0].message.header("group").is_some());
    assert_eq!(two[1].message.header("group_index"), Some(&json!(1)));
}

#[test]
fn callbacks_that_form_a_group_are_one_child_of_the_result() {
    let published = run(json!({"callbacks": [sig("a", "1"), sig("b", "2")], "chain": [sig("next", "n")]}));
    let group = published[0].message.header("group");
    assert_eq!(
        json!(children(&published)),
        json!([
            [[group, null], [[["1", null], null], [["2", null], null]]],
            [["n", null], null]
        ])
    );
    let one = run(json!({"callbacks": [sig("a", "1")]}));
    assert_eq!(json!(children(&one)), json!([[["1", null], null]]));
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
    let published = run(json!({"callbacks": [link]}));
    let message = &published[0].message;
    assert_eq!(published[0].queue, "other");
    assert_eq!(message.priority().step(), 6);
    assert_eq!(message.text("eta"), Some("2026-11-23T10:00:02.500000+00:00"));
    assert_eq!(message.text("expires"), Some("2026-11-23T10:01:00+00:00"));
    assert_eq!(message.timelimit(), (None, Some(3.0)));
    let body = message.body().unwrap();
    assert_eq!(body.args, [json!(10)]);
    assert_eq!(body.embedded("callbacks"), [sig("b", "2")]);
}

#[test]
fn an_errback_is_called_with_the_id_of_the_failed_task() {
    let message = parent();
    let embed = json!({"errbacks": [sig("e", "1")], "chain": [sig("last", "l"), sig("next", "n")]});
    let body = Body {
        embed: embed.as_object().cloned().unwrap(),
        ..Body::default()
    };
    let now = timestamp::parse("2026-11-23T10:00:00Z").unwrap();
    let context = Context {
        message: &message,
        body: &body,
        origin: "gen1@h",
        default_queue: "celery",
        now,
    };
    let published = after_failure(context);
    assert_eq!(published[0].message.body().unwrap().args, [json!("h"), json!(10)]);
    assert_eq!(abandoned(&body), ["l", "n"]);
}

#[test]
fn what_cannot_be_carried_on_is_recognised_before_it_runs() {
    let body = |embed: Value| Body {
        embed: embed.as_object().cloned().unwrap(),
        ..Body::default()
    };
    let group = json!({"task": "celery.group", "kwargs": {"tasks": []}, "subtask_type": "group"});
    assert!(beyond_us(&body(json!({"chord": sig("c", "1")}))).is_some());
    assert!(beyond_us(&body(json!({"chain": [sig("l", "1"), group.clone()]}))).is_some());
    assert!(beyond_us(&body(json!({"callbacks": [group.clone()]}))).is_some());
    // Only the next step matters: whoever runs that one sees to the ones behind it.
    assert!(beyond_us(&body(json!({"chain": [group, sig("n", "1")]}))).is_none());
    assert!(
        beyond_us(&Body {
            embed: Map::new(),
            ..Body::default()
        })
        .is_none()
    );
}
