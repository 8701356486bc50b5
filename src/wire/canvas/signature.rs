//! A signature: a task call in JSON, as it is embedded in messages, or several of them combined.

use serde_json::{Map, Value, json};

/// What `apply_async` would be called with, beside the arguments.
pub(super) type Options = Map<String, Value>;

/// One signature. Members that are not known here are kept.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Signature {
    pub(super) task: String,
    pub(super) args: Vec<Value>,
    pub(super) kwargs: Map<String, Value>,
    pub(super) options: Options,
    pub(super) immutable: bool,
    pub(super) kind: Kind,
    pub(super) others: Map<String, Value>,
}

/// What a signature combines; Celery's `subtask_type`.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// One task. Maps and starmaps are tasks of Python workers (`celery.map`, `celery.starmap`).
    Task,
    /// A starmap per part of a list.
    Chunks,
    /// One after the other.
    Chain(Vec<Signature>),
    /// All at once.
    Group(Vec<Signature>),
    /// All of the header at once, then the body with their results.
    Chord {
        header: Vec<Signature>,
        body: Box<Signature>,
    },
}

impl Signature {
    /// Reads a signature; `None` when it is none, or of a kind that is not known.
    pub(super) fn read(value: &Value) -> Option<Self> {
        let fields = value.as_object()?;
        let object = |name: &str| match fields.get(name) {
            None | Some(Value::Null) => Some(Map::new()),
            Some(value) => value.as_object().cloned(),
        };
        let mut kwargs = object("kwargs")?;
        let kind = match fields.get("subtask_type").unwrap_or(&Value::Null) {
            Value::Null => Kind::Task,
            Value::String(kind) => match kind.as_str() {
                "xmap" | "xstarmap" => Kind::Task,
                "chunks" => Kind::Chunks,
                "chain" => Kind::Chain(read_all(&kwargs.shift_remove("tasks")?)?),
                "group" => Kind::Group(read_all(&kwargs.shift_remove("tasks")?)?),
                "chord" => Kind::Chord {
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
        Some(Self {
            task: fields.get("task")?.as_str()?.to_owned(),
            args,
            kwargs,
            options: object("options")?,
            immutable: fields.get("immutable").and_then(Value::as_bool).unwrap_or(false),
            kind,
            others: fields
                .iter()
                .filter(|(name, _)| !known.contains(&name.as_str()))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        })
    }

    /// A signature without options of its own.
    pub(super) fn new(task: &str, kind: Kind) -> Self {
        Self {
            task: task.to_owned(),
            args: Vec::new(),
            kwargs: Map::new(),
            options: Options::new(),
            immutable: false,
            kind,
            others: Map::new(),
        }
    }

    /// A group of signatures.
    pub(super) fn group(tasks: Vec<Self>) -> Self {
        Self::new("celery.group", Kind::Group(tasks))
    }

    /// The signature in JSON.
    pub(super) fn to_value(&self) -> Value {
        let mut kwargs = self.kwargs.clone();
        let list = |tasks: &[Self]| Value::Array(tasks.iter().map(Self::to_value).collect());
        let subtask_type = match &self.kind {
            Kind::Task => Value::Null,
            Kind::Chunks => json!("chunks"),
            Kind::Chain(tasks) => {
                kwargs.insert("tasks".into(), list(tasks));
                json!("chain")
            }
            Kind::Group(tasks) => {
                kwargs.insert("tasks".into(), list(tasks));
                json!("group")
            }
            Kind::Chord { header, body } => {
                kwargs.insert("header".into(), list(header));
                kwargs.insert("body".into(), body.to_value());
                json!("chord")
            }
        };
        let mut fields = self.others.clone();
        fields.insert("task".into(), json!(self.task));
        fields.insert("args".into(), Value::Array(self.args.clone()));
        fields.insert("kwargs".into(), Value::Object(kwargs));
        fields.insert("options".into(), Value::Object(self.options.clone()));
        fields.insert("subtask_type".into(), subtask_type);
        fields.insert("immutable".into(), json!(self.immutable));
        Value::Object(fields)
    }

    /// Puts arguments before the signature's own, unless it is immutable, and lays options over its own,
    /// except those that must not change: the group, and stamps.
    pub(super) fn merge(&mut self, args: &[Value], options: Options) {
        for (name, value) in options {
            if !(self.keeps(&name) && self.options.contains_key(&name)) {
                self.options.insert(name, value);
            }
        }
        self.prepend(args);
    }

    /// Puts arguments before the signature's own, unless it is immutable.
    pub(super) fn prepend(&mut self, args: &[Value]) {
        if !self.immutable {
            self.args.splice(0..0, args.iter().cloned());
        }
    }

    /// Whether the option, once there, is not replaced.
    fn keeps(&self, name: &str) -> bool {
        let stamped = || {
            let stamps = self.options.get("stamped_headers").and_then(Value::as_array);
            stamps.is_some_and(|stamps| stamps.iter().any(|stamp| stamp.as_str() == Some(name)))
        };
        name == "group_id" || name == "stamped_headers" || stamped()
    }

    /// An option, unless absent or null.
    pub(super) fn option(&self, name: &str) -> Option<&Value> {
        self.options.get(name).filter(|value| !value.is_null())
    }

    /// An option that is text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.option(name)?.as_str()
    }

    /// An option that may be one value or a list of them.
    pub(super) fn list(&self, name: &str) -> Vec<Value> {
        listed(self.options.get(name))
    }

    /// Adds to an option that is a list, unless it is there already.
    pub(super) fn append(&mut self, name: &str, value: &Value) {
        let mut values = self.list(name);
        if !values.contains(value) {
            values.push(value.clone());
        }
        self.options.insert(name.to_owned(), Value::Array(values));
    }

    /// `link`: adds a callback where its kind has it run.
    pub(super) fn link(&mut self, callback: &Value) {
        match &mut self.kind {
            Kind::Chord { body, .. } => body.link(callback),
            Kind::Group(tasks) if !tasks.is_empty() => {
                let mut callback = callback.clone();
                callback["immutable"] = json!(true);
                tasks[0].link(&callback);
            }
            _ => self.append("link", callback),
        }
    }

    /// `link_error`: adds an errback where its kind has it run.
    pub(super) fn link_error(&mut self, errback: &Value) {
        match &mut self.kind {
            Kind::Chord { header, body } => {
                let nested = header
                    .iter_mut()
                    .filter(|task| matches!(task.kind, Kind::Chord { .. }));
                nested.for_each(|chord| chord.link_error(errback));
                body.link_error(errback);
            }
            Kind::Group(tasks) => tasks.iter_mut().for_each(|task| task.link_error(errback)),
            _ => self.append("link_error", errback),
        }
    }

    /// How many results of it an enclosing chord waits for.
    pub(super) fn size(&self) -> usize {
        match &self.kind {
            Kind::Task | Kind::Chunks => 1,
            Kind::Group(tasks) => tasks.iter().map(Self::size).sum(),
            Kind::Chain(tasks) => tasks
                .iter()
                .rev()
                .map(Self::size)
                .find(|size| *size > 0)
                .unwrap_or(0),
            Kind::Chord { body, .. } => body.size(),
        }
    }

    /// Whether it is a group of nothing.
    pub(super) fn is_empty_group(&self) -> bool {
        matches!(&self.kind, Kind::Group(tasks) if tasks.is_empty())
    }

    /// A group of one task is that task.
    pub(super) fn unrolled(self) -> Self {
        match self.kind {
            Kind::Group(mut tasks) if tasks.len() == 1 => tasks.remove(0),
            kind => Self { kind, ..self },
        }
    }
}

/// A value that may be one or a list of them, or nothing.
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

/// A chord's header: a list, or a group or chain of which only the tasks count, or one task.
fn read_header(value: &Value) -> Option<Vec<Signature>> {
    if value.is_array() {
        return read_all(value);
    }
    let header = Signature::read(value)?;
    match header.kind {
        Kind::Group(tasks) | Kind::Chain(tasks) => Some(tasks),
        _ => Some(vec![header]),
    }
}
