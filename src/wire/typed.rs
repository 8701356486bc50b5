//! kombu's typed values, of which ids may be one: `{"__type__": "uuid", "__value__": {"hex": "..."}}`.

use serde_json::Value;
use uuid::Uuid;

/// An id as keys name it, if it is sent as a UUID object.
pub(super) fn uuid_text(value: &Value) -> Option<String> {
    if value.get("__type__")? != "uuid" {
        return None;
    }
    let uuid = value.get("__value__")?;
    let hex = uuid.get("hex").unwrap_or(uuid).as_str()?;
    Uuid::try_parse(hex).ok().map(|uuid| uuid.to_string())
}

/// An id as keys name it.
pub(super) fn id_text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned).or_else(|| uuid_text(value))
}
