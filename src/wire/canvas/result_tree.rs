//! The future results of a workflow, as Celery's `AsyncResult` and `GroupResult` represent them: each has an id, a
//! parent and, if it is a group's, members.

use serde_json::{Value, json};
use uuid::Uuid;

/// The most ancestors that are written for a result. Readers rebuild them recursively.
const MAX_PARENTS: usize = 100;

/// A result in a [`ResultTree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ResultRef(usize);

/// Where signatures without an id get one.
#[derive(Debug, Default)]
pub enum Ids {
    /// Random ids.
    #[default]
    Random,
    /// Ids that follow from a text. A task that is run again after a crash sends the same ids, which the result of
    /// the first run may name.
    Derived {
        /// The text.
        from: String,
        /// How many there were.
        count: usize,
    },
}

/// All results of a workflow.
#[derive(Debug, Default)]
pub(super) struct ResultTree {
    nodes: Vec<ResultNode>,
    pub(super) ids: Ids,
}

#[derive(Debug)]
struct ResultNode {
    id: String,
    parent: Option<ResultRef>,
    members: Option<Vec<ResultRef>>,
}

impl ResultTree {
    pub(super) fn new(ids: Ids) -> Self {
        Self {
            nodes: Vec::new(),
            ids,
        }
    }

    /// An id for a signature that has none.
    pub(super) fn new_id(&mut self) -> String {
        let id = match &mut self.ids {
            Ids::Random => Uuid::new_v4(),
            Ids::Derived { from, count } => {
                *count += 1;
                Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{from}:{count}").as_bytes())
            }
        };
        id.to_string()
    }

    /// Adds the result of a task.
    pub(super) fn of_task(&mut self, id: &str) -> ResultRef {
        self.add(id, None)
    }

    /// Adds the result of a group.
    pub(super) fn of_group(&mut self, id: &str, members: Vec<ResultRef>) -> ResultRef {
        self.add(id, Some(members))
    }

    pub(super) fn id(&self, result: ResultRef) -> &str {
        &self.nodes[result.0].id
    }

    pub(super) fn members(&self, result: ResultRef) -> Option<&[ResultRef]> {
        self.nodes[result.0].members.as_deref()
    }

    pub(super) fn parent(&self, result: ResultRef) -> Option<ResultRef> {
        self.nodes[result.0].parent
    }

    pub(super) fn set_parent(&mut self, result: ResultRef, parent: Option<ResultRef>) {
        self.nodes[result.0].parent = parent;
    }

    /// The earliest ancestor, or the result itself if it has no parent.
    pub(super) fn first(&self, result: ResultRef) -> ResultRef {
        let mut first = result;
        // Parents never form a cycle; the bound makes sure that this ends.
        for _ in 0..self.nodes.len() {
            match self.parent(first) {
                Some(parent) => first = parent,
                None => break,
            }
        }
        first
    }

    /// The encoding of `AsyncResult.as_tuple`: `[[id, parent], members]`.
    pub(super) fn tuple(&self, result: ResultRef) -> Value {
        let mut lineage = vec![result];
        while let Some(parent) = self.parent(lineage[lineage.len() - 1])
            && lineage.len() < MAX_PARENTS
        {
            lineage.push(parent);
        }
        let mut tuple = Value::Null;
        for one in lineage.into_iter().rev() {
            let members = self.members(one).map(|members| {
                members
                    .iter()
                    .map(|member| self.tuple(*member))
                    .collect::<Vec<_>>()
            });
            tuple = json!([[self.id(one), tuple], members]);
        }
        tuple
    }

    fn add(&mut self, id: &str, members: Option<Vec<ResultRef>>) -> ResultRef {
        self.nodes.push(ResultNode {
            id: id.to_owned(),
            parent: None,
            members,
        });
        ResultRef(self.nodes.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_ancestors_are_written_down() {
        let mut tree = ResultTree::default();
        let mut last = tree.of_task("first");
        for number in 0..300 {
            let next = tree.of_task(&number.to_string());
            tree.set_parent(next, Some(last));
            last = next;
        }
        let tuple = tree.tuple(last);
        let parents = std::iter::successors(Some(&tuple), |tuple| {
            Some(&tuple[0][1]).filter(|it| !it.is_null())
        });
        assert_eq!(parents.count(), 100);
    }
}
