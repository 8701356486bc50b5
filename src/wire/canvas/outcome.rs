//! The results that a workflow will have, as Celery's `AsyncResult` and `GroupResult` know them: by id, with
//! what came before and what belongs together.

use serde_json::{Value, json};

/// How many predecessors of a result are written down. Whoever reads them builds them recursively.
const MAX_PARENTS: usize = 100;

/// One result, by its place in [`Outcomes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome(usize);

/// All results of the workflow at hand.
#[derive(Debug, Default)]
pub(super) struct Outcomes(Vec<Node>);

#[derive(Debug)]
struct Node {
    id: String,
    parent: Option<Outcome>,
    members: Option<Vec<Outcome>>,
}

impl Outcomes {
    /// A task's result.
    pub(super) fn of_task(&mut self, id: &str) -> Outcome {
        self.add(id, None)
    }

    /// A group's result.
    pub(super) fn of_group(&mut self, id: &str, members: Vec<Outcome>) -> Outcome {
        self.add(id, Some(members))
    }

    pub(super) fn id(&self, outcome: Outcome) -> &str {
        &self.0[outcome.0].id
    }

    pub(super) fn members(&self, outcome: Outcome) -> Option<&[Outcome]> {
        self.0[outcome.0].members.as_deref()
    }

    pub(super) fn parent(&self, outcome: Outcome) -> Option<Outcome> {
        self.0[outcome.0].parent
    }

    pub(super) fn set_parent(&mut self, outcome: Outcome, parent: Option<Outcome>) {
        self.0[outcome.0].parent = parent;
    }

    /// The first of what came before, the outcome itself if nothing did.
    pub(super) fn first(&self, outcome: Outcome) -> Outcome {
        let mut first = outcome;
        // Parents are set once each and to results made later or earlier, never in a circle; the bound says so.
        for _ in 0..self.0.len() {
            match self.parent(first) {
                Some(parent) => first = parent,
                None => break,
            }
        }
        first
    }

    /// The pair encoding of `as_tuple`: `[[id, parent], members]`.
    pub(super) fn tuple(&self, outcome: Outcome) -> Value {
        let mut lineage = vec![outcome];
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

    fn add(&mut self, id: &str, members: Option<Vec<Outcome>>) -> Outcome {
        self.0.push(Node {
            id: id.to_owned(),
            parent: None,
            members,
        });
        Outcome(self.0.len() - 1)
    }
}
