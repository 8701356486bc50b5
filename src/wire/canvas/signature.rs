//! Signatures: task calls in JSON as embedded in messages, single or combined.

use serde_json::{Map, Value, json};

use crate::typed;

/// The options of `apply_async`.
pub(super) type CallOptions = Map<String, Value>;

/// A signature: a call of one task, or several calls combined. Unknown members are kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Signature {
    pub(super) task: String,
    pub(super) args: Vec<Value>,
    pub(super) kwargs: Map<String, Value>,
    pub(super) options: CallOptions,
    pub(super) immutable: bool,
    pub(super) kind: SubtaskType,
    pub(super) others: Map<String, Value>,
    /// The option `task_id` as text and as the UUID object that it is for the client.
    pub(super) uuid: Option<(String, Value)>,
}

/// Celery's `subtask_type`: how a signature combines others.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum SubtaskType {
    /// A single task. Maps and starmaps are tasks of Python workers (`celery.map`, `celery.starmap`).
    Task,
    /// A starmap for each chunk of a list.
    Chunks,
    /// Tasks that run one after the other.
    Chain(Vec<Signature>),
    /// Tasks that run in parallel.
    Group(Vec<Signature>),
    /// A header of parallel tasks, then a body that gets their results.
    Chord {
        header: Vec<Signature>,
        body: Box<Signature>,
    },
}

impl Signature {
    /// Reads a signature; `None` if it is not one or its `subtask_type` is unknown.
    pub(super) fn read(value: &Value) -> Option<Self> {
        let fields = value.as_object()?;
        let object = |name: &str| match fields.get(name) {
            None | Some(Value::Null) => Some(Map::new()),
            Some(value) => value.as_object().cloned(),
        };
        let mut kwargs = object("kwargs")?;
        let kind = match fields.get("subtask_type").unwrap_or(&Value::Null) {
            Value::Null => SubtaskType::Task,
            Value::String(kind) => match kind.as_str() {
                "xmap" | "xstarmap" => SubtaskType::Task,
                "chunks" => SubtaskType::Chunks,
                "chain" => SubtaskType::Chain(read_all(&kwargs.shift_remove("tasks")?)?),
                "group" => SubtaskType::Group(read_all(&kwargs.shift_remove("tasks")?)?),
                "chord" => SubtaskType::Chord {
                    header: read_header(&kwargs.shift_remove("header")?)?,
                    body: Box::new(Self::read(&kwargs.shift_remove("body")?)?),
                },
                _ => return None,
            },
            _ => return None,
        };
        let args = match fields.get("args") {
            None | Some(Value::Null) => Vec::new(),
            Some(value) => value.as_array()?.clone(),
        };
        let known = ["task", "args", "kwargs", "options", "subtask_type", "immutable"];
        let mut options = object("options")?;
        let mut uuid = None;
        for name in ["task_id", "root_id", "parent_id", "group_id"] {
            if let Some(value) = options.get_mut(name)
                && let Some(text) = typed::uuid_text(value)
            {
                let object = std::mem::replace(value, json!(text));
                if name == "task_id" {
                    uuid = Some((text, object));
                }
            }
        }
        Some(Self {
            task: fields.get("task")?.as_str()?.to_owned(),
            args,
            kwargs,
            options,
            immutable: fields.get("immutable").and_then(Value::as_bool).unwrap_or(false),
            kind,
            others: fields
                .iter()
                .filter(|(name, _)| !known.contains(&name.as_str()))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            uuid,
        })
    }

    /// A signature without arguments and options.
    pub(super) fn new(task: &str, kind: SubtaskType) -> Self {
        Self {
            task: task.to_owned(),
            args: Vec::new(),
            kwargs: Map::new(),
            options: CallOptions::new(),
            immutable: false,
            kind,
            others: Map::new(),
            uuid: None,
        }
    }

    /// The signature in JSON.
    pub(super) fn to_value(&self) -> Value {
        let mut kwargs = self.kwargs.clone();
        let list = |tasks: &[Self]| Value::Array(tasks.iter().map(Self::to_value).collect());
        let subtask_type = match &self.kind {
            SubtaskType::Task => Value::Null,
            SubtaskType::Chunks => json!("chunks"),
            SubtaskType::Chain(tasks) => {
                kwargs.insert("tasks".into(), list(tasks));
                json!("chain")
            }
            SubtaskType::Group(tasks) => {
                kwargs.insert("tasks".into(), list(tasks));
                json!("group")
            }
            SubtaskType::Chord { header, body } => {
                kwargs.insert("header".into(), list(header));
                kwargs.insert("body".into(), body.to_value());
                json!("chord")
            }
        };
        let mut fields = self.others.clone();
        fields.insert("task".into(), json!(self.task));
        fields.insert("args".into(), Value::Array(self.args.clone()));
        fields.insert("kwargs".into(), Value::Object(kwargs));
        let mut options = self.options.clone();
        if let Some(uuid) = self.uuid() {
            options.insert("task_id".into(), uuid.clone());
        }
        fields.insert("options".into(), Value::Object(options));
        fields.insert("subtask_type".into(), subtask_type);
        fields.insert("immutable".into(), json!(self.immutable));
        Value::Object(fields)
    }

    /// Prepends arguments unless the signature is immutable, and overrides its options except the group and stamps.
    pub(super) fn merge(&mut self, args: &[Value], options: CallOptions) {
        for (name, value) in options {
            if !(self.keeps(&name) && self.options.contains_key(&name)) {
                self.options.insert(name, value);
            }
        }
        self.prepend(args);
    }

    /// Prepends arguments unless the signature is immutable.
    pub(super) fn prepend(&mut self, args: &[Value]) {
        if !self.immutable {
            self.args.splice(0..0, args.iter().cloned());
        }
    }

    /// Whether the option must not be overridden once it is set.
    fn keeps(&self, name: &str) -> bool {
        let stamped = || {
            let stamps = self.options.get("stamped_headers").and_then(Value::as_array);
            stamps.is_some_and(|stamps| stamps.iter().any(|stamp| stamp.as_str() == Some(name)))
        };
        name == "group_id" || name == "stamped_headers" || stamped()
    }

    /// The option `task_id` as its sender wrote it, if that is a UUID object.
    pub(super) fn uuid(&self) -> Option<&Value> {
        let (text, uuid) = self.uuid.as_ref()?;
        (self.text("task_id") == Some(text)).then_some(uuid)
    }

    /// An option, unless absent or null.
    pub(super) fn set_option(&self, name: &str) -> Option<&Value> {
        self.options.get(name).filter(|value| !value.is_null())
    }

    /// An option that is a string.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.set_option(name)?.as_str()
    }

    /// An option that is a list, or one value in place of a list.
    pub(super) fn list(&self, name: &str) -> Vec<Value> {
        listed(self.options.get(name))
    }

    /// Appends to an option that is a list, unless it contains the value.
    pub(super) fn append(&mut self, name: &str, value: &Value) {
        let mut values = self.list(name);
        if !values.contains(value) {
            values.push(value.clone());
        }
        self.options.insert(name.to_owned(), Value::Array(values));
    }

    /// Celery's `link`: adds a callback to the task that should run it.
    pub(super) fn link(&mut self, callback: &Value) {
        match &mut self.kind {
            SubtaskType::Chord { body, .. } => body.link(callback),
            SubtaskType::Group(tasks) if !tasks.is_empty() => {
                let mut callback = callback.clone();
                callback["immutable"] = json!(true);
                tasks[0].link(&callback);
            }
            _ => self.append("link", callback),
        }
    }

    /// Celery's `link_error`: adds an errback to the tasks that should run it.
    pub(super) fn link_error(&mut self, errback: &Value) {
        match &mut self.kind {
            SubtaskType::Chord { header, body } => {
                let nested = header
                    .iter_mut()
                    .filter(|task| matches!(task.kind, SubtaskType::Chord { .. }));
                nested.for_each(|chord| chord.link_error(errback));
                body.link_error(errback);
            }
            SubtaskType::Group(tasks) => tasks.iter_mut().for_each(|task| task.link_error(errback)),
            _ => self.append("link_error", errback),
        }
    }

    /// The signature whose result is this one's: a chord's result is that of its body.
    pub(super) fn result(&self) -> &Self {
        let mut result = self;
        while let SubtaskType::Chord { body, .. } = &result.kind {
            result = body;
        }
        result
    }

    /// Celery's `_result_errbacks`: what is called if it fails as the member of a group that does not run.
    pub(super) fn errbacks(&self) -> Vec<Value> {
        let mut errbacks = self.list("link_error");
        match &self.kind {
            SubtaskType::Chord { body, .. } => errbacks.extend(body.errbacks()),
            SubtaskType::Group(tasks) => errbacks.extend(tasks.iter().flat_map(Self::errbacks)),
            _ => {}
        }
        errbacks
    }

    /// The number of its results that an enclosing chord waits for.
    pub(super) fn size(&self) -> usize {
        match &self.kind {
            SubtaskType::Task | SubtaskType::Chunks => 1,
            SubtaskType::Group(tasks) => tasks.iter().map(Self::size).sum(),
            SubtaskType::Chain(tasks) => tasks
                .iter()
                .rev()
                .map(Self::size)
                .find(|size| *size > 0)
                .unwrap_or(0),
            SubtaskType::Chord { body, .. } => body.size(),
        }
    }

    /// Whether this is a group without tasks.
    pub(super) fn is_empty_group(&self) -> bool {
        matches!(&self.kind, SubtaskType::Group(tasks) if tasks.is_empty())
    }

    /// Replaces a group of one task by the task.
    pub(super) fn unrolled(self) -> Self {
        match self.kind {
            SubtaskType::Group(mut tasks) if tasks.len() == 1 => tasks.remove(0),
            kind => Self { kind, ..self },
        }
    }
}

/// A list, or one value in place of a list. Null and absent are empty lists.
pub(super) fn listed(value: Option<&Value>) -> Vec<Value> {
    match value {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) => items.clone(),
        Some(one) => vec![one.clone()],
    }
}

fn read_all(value: &Value) -> Option<Vec<Signature>> {
    value.as_array()?.iter().map(Signature::read).collect()
}

/// Reads a chord's header: a list of tasks, a group, a chain or a single task.
fn read_header(value: &Value) -> Option<Vec<Signature>> {
    if value.is_array() {
        return read_all(value);
    }
    let header = Signature::read(value)?;
    match header.kind {
        SubtaskType::Group(tasks) | SubtaskType::Chain(tasks) => Some(tasks),
        _ => Some(vec![header]),
    }
}
