//! Tasks that replace themselves, and tasks that add to their chord.

use super::*;

#[task(name = "t.integration.tasks.add_replaced")]
pub(super) async fn add_replaced(x: Value, y: Value) -> TaskResult<()> {
    Err(worker::replace(s("add").args([x, y])))
}

#[task(name = "t.integration.tasks.record_replaced_task_nesting")]
pub(super) async fn record_replaced_task_nesting(
    replacements: u64,
    nesting: Option<Vec<Value>>,
) -> TaskResult<Vec<Value>> {
    let mut nesting = nesting.unwrap_or_default();
    nesting.push(json!(current().info().replaced_task_nesting));
    if replacements == 0 {
        return Ok(nesting);
    }
    let next = s("record_replaced_task_nesting")
        .arg(replacements - 1)
        .arg(nesting);
    Err(worker::replace(next))
}

#[task(name = "t.integration.tasks.add_replaced_with_chain")]
pub(super) async fn add_replaced_with_chain(x: Value, y: Value) -> TaskResult<()> {
    Err(worker::replace(s("add").args([x, y]) | s("identity")))
}

/// `redis_echo`, of this message or of the result before it.
fn echo(message: Option<Value>) -> Signature {
    match message {
        Some(message) => s("redis_echo").arg(message).immutable(),
        None => s("redis_echo"),
    }
}

#[task(name = "t.integration.tasks.replace_with_chain")]
pub(super) async fn replace_with_chain(args: Vec<Value>, link_msg: Option<Value>) -> TaskResult<()> {
    let chain = s("identity").args(args) | s("identity");
    Err(worker::replace(chain.on_success(echo(link_msg))))
}

#[task(name = "t.integration.tasks.replace_with_chain_which_raises")]
pub(super) async fn replace_with_chain_which_raises(
    args: Vec<Value>,
    link_msg: Option<Value>,
) -> TaskResult<()> {
    let chain = s("identity").args(args) | s("raise_error");
    Err(worker::replace(chain.on_error(echo(link_msg))))
}

#[task(name = "t.integration.tasks.replace_with_empty_chain")]
pub(super) async fn replace_with_empty_chain(args: Vec<Value>) -> TaskResult<()> {
    let _ = args;
    Err(worker::replace(Signature::chain([])))
}

#[task(name = "t.integration.tasks.replace_with_chain_which_contains_a_group")]
pub(super) async fn replace_with_chain_which_contains_a_group() -> TaskResult<()> {
    let group = Signature::group([s("add").arg(1), s("add").arg(1)]);
    Err(worker::replace(s("add").args([1, 2]) | group))
}

fn add_to_each(nums: Vec<Value>, val: &Value) -> impl Iterator<Item = Signature> {
    nums.into_iter().map(|num| s("add").args([num, val.clone()]))
}

#[task(name = "t.integration.tasks.add_to_all")]
pub(super) async fn add_to_all(nums: Vec<Value>, val: Value) -> TaskResult<()> {
    Err(worker::replace(Signature::group(add_to_each(nums, &val))))
}

fn add_to_chord(signature: Signature) -> TaskResult<()> {
    let added = current().add_to_chord(signature);
    added.map_err(|error| worker::fail(Exception::builtin("ValueError", error.to_string()), None))?;
    Ok(())
}

#[task(name = "t.integration.tasks.add_to_all_to_chord")]
pub(super) async fn add_to_all_to_chord(nums: Vec<Value>, val: Value) -> TaskResult<i64> {
    for signature in add_to_each(nums, &val) {
        add_to_chord(signature)?;
    }
    Ok(0)
}

#[task(name = "t.integration.tasks.add_chord_to_chord")]
pub(super) async fn add_chord_to_chord(nums: Vec<Value>, val: Value) -> TaskResult<i64> {
    add_to_chord(Signature::group(add_to_each(nums, &val)) | s("tsum"))?;
    Ok(0)
}

#[task(name = "t.integration.tasks.second_order_replace1")]
pub(super) async fn second_order_replace1(state: Option<bool>) -> TaskResult<()> {
    if state == Some(true) {
        return rpush("redis-echo", &json!("Out A")).await;
    }
    rpush("redis-echo", &json!("In A")).await?;
    let again = s("second_order_replace1").kwarg("state", true).immutable();
    Err(worker::replace(s("second_order_replace2") | again))
}

#[task(name = "t.integration.tasks.second_order_replace2")]
pub(super) async fn second_order_replace2(state: Option<bool>) -> TaskResult<()> {
    if state == Some(true) {
        return rpush("redis-echo", &json!("Out B")).await;
    }
    rpush("redis-echo", &json!("In B")).await?;
    let again = s("second_order_replace2").kwarg("state", true).immutable();
    Err(worker::replace(s("redis_echo").arg("In/Out C") | again))
}

#[task(name = "t.integration.tasks.fail_replaced")]
pub(super) async fn fail_replaced(args: Vec<Value>) -> TaskResult<()> {
    Err(worker::replace(s("fail").args(args).immutable()))
}

#[task(name = "t.integration.tasks.replaced_with_me")]
pub(super) async fn replaced_with_me() -> TaskResult<bool> {
    Ok(true)
}

#[task(name = "t.integration.tasks.replace_with_stamped_task")]
pub(super) async fn replace_with_stamped_task(replace_with: Option<Value>) -> TaskResult<()> {
    let next = match replace_with {
        None => s("replaced_with_me"),
        Some(value) => Signature::from_value(&value).ok_or_else(|| type_error("not a signature"))?,
    };
    let stamp = "This is the replaced task";
    Err(worker::replace(next.stamp("StampOnReplace", stamp)))
}
