//! Tasks that return, read or send signatures.

use super::*;

/// Sends a signature with the task's outcome.
fn send(signature: Signature) -> TaskResult<Value> {
    match current().send(signature) {
        Ok(sent) => Ok(sent.result),
        Err(error) => Err(worker::fail(
            Exception::builtin("ValueError", error.to_string()),
            None,
        )),
    }
}

#[task(name = "t.integration.tasks.chain_add")]
pub(super) async fn chain_add(x: Value, y: Value) -> TaskResult<()> {
    send(s("add").args([x.clone(), x]) | s("add").arg(y))?;
    Ok(())
}

#[task(name = "t.integration.tasks.chord_add")]
pub(super) async fn chord_add(x: Value, y: Value) -> TaskResult<()> {
    send(Signature::chord([s("add").args([x.clone(), x])], s("add").arg(y)))?;
    Ok(())
}

#[task(name = "t.integration.tasks.build_chain_inside_task")]
pub(super) async fn build_chain_inside_task() -> TaskResult<Value> {
    let group = Signature::group([s("add").arg(3), s("add").arg(4)]);
    send(s("add").args([1, 1]) | s("add").arg(2) | group | s("add").arg(5))
}

fn chord_of(header: Signature) -> Signature {
    Signature::chord([header], s("add"))
}

#[task(name = "t.integration.tasks.return_nested_signature_chain_chain")]
pub(super) async fn return_nested_signature_chain_chain() -> TaskResult<Value> {
    Ok(Signature::chain([Signature::chain([s("add")])]).into_value())
}

#[task(name = "t.integration.tasks.return_nested_signature_chain_group")]
pub(super) async fn return_nested_signature_chain_group() -> TaskResult<Value> {
    Ok(Signature::chain([Signature::group([s("add")])]).into_value())
}

#[task(name = "t.integration.tasks.return_nested_signature_chain_chord")]
pub(super) async fn return_nested_signature_chain_chord() -> TaskResult<Value> {
    Ok(Signature::chain([chord_of(s("add"))]).into_value())
}

#[task(name = "t.integration.tasks.return_nested_signature_group_chain")]
pub(super) async fn return_nested_signature_group_chain() -> TaskResult<Value> {
    Ok(Signature::group([Signature::chain([s("add")])]).into_value())
}

#[task(name = "t.integration.tasks.return_nested_signature_group_group")]
pub(super) async fn return_nested_signature_group_group() -> TaskResult<Value> {
    Ok(Signature::group([Signature::group([s("add")])]).into_value())
}

#[task(name = "t.integration.tasks.return_nested_signature_group_chord")]
pub(super) async fn return_nested_signature_group_chord() -> TaskResult<Value> {
    Ok(Signature::group([chord_of(s("add"))]).into_value())
}

#[task(name = "t.integration.tasks.return_nested_signature_chord_chain")]
pub(super) async fn return_nested_signature_chord_chain() -> TaskResult<Value> {
    Ok(chord_of(Signature::chain([s("add")])).into_value())
}

#[task(name = "t.integration.tasks.return_nested_signature_chord_group")]
pub(super) async fn return_nested_signature_chord_group() -> TaskResult<Value> {
    Ok(chord_of(Signature::group([s("add")])).into_value())
}

#[task(name = "t.integration.tasks.return_nested_signature_chord_chord")]
pub(super) async fn return_nested_signature_chord_chord() -> TaskResult<Value> {
    Ok(chord_of(chord_of(s("add"))).into_value())
}

#[task(name = "t.integration.tasks.rebuild_signature")]
pub(super) async fn rebuild_signature(sig_dict: Value) -> TaskResult<()> {
    match Signature::from_value(&sig_dict) {
        Some(_) => Ok(()),
        None => Err(type_error("not a signature")),
    }
}
