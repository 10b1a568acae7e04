//! The disk of the daemon: stores what was applied, then answers.

use super::{Answer, Daemon, Env, Item, PROBE_MS};
use crate::sim::options::Defect;

impl Daemon {
    /// Stores what waits, up to a random point, in one transaction as far as possible.
    pub fn store(&mut self, env: &mut Env) {
        let mut changes = Vec::new();
        let mut answers = Vec::new();
        let mut line = self.disk.line();
        let mut mark = None;
        let most = 1 + env.rng.index(self.items.len());
        for _ in 0..most {
            match self.items.front() {
                Some(Item::Replace(..)) if !changes.is_empty() || !answers.is_empty() => break,
                Some(Item::Replace(tree, new)) => {
                    if !self.disk.replace(tree, *new) {
                        return self.disk_failed(env);
                    }
                    line = *new;
                    mark = None;
                }
                Some(Item::Change(change, new)) => {
                    changes.push(change.clone());
                    line = *new;
                    mark = None;
                }
                Some(Item::Answer(count, result)) => answers.push((*count, *result)),
                Some(Item::Mark(tree)) => mark = Some(tree.clone()),
                None => break,
            }
            self.items.pop_front();
        }
        let early = self.defect == Some(Defect::AnswerEarly);
        if early {
            self.answer(env, &answers);
        }
        if !changes.is_empty() && !self.disk.commit(&changes, line) {
            return self.disk_failed(env);
        }
        if self.defect == Some(Defect::DropRow) && env.rng.chance(100) {
            self.disk.drop_row();
        }
        if !early {
            self.answer(env, &answers);
        }
        if let Some(difference) = mark.and_then(|tree| self.disk.difference(&tree)) {
            let text = format!("node {}: {difference}", self.node + 1);
            env.check.fail("database equals tree", text);
        }
    }

    fn answer(&mut self, env: &mut Env, answers: &[(u64, i32)]) {
        for (count, result) in answers {
            let Some(waiter) = self.waiters.remove(count) else {
                continue;
            };
            let answer = if *result >= 0 {
                Answer::Done
            } else {
                Answer::Refused
            };
            if answer == Answer::Done
                && let Some(line) = waiter.line
            {
                env.check.acknowledged(self.node, line, self.disk.line());
            }
            self.answers.push((waiter.client, answer));
        }
    }

    fn disk_failed(&mut self, env: &mut Env) {
        env.trace.add(env.now_ms, self.node, "disk failed", [0, 0]);
        self.items.clear();
        let now = self.seconds(env);
        match self.disk.load() {
            Ok(tree) => self.config.app_mut().reset(tree, now),
            Err(error) => env.check.fail("databases load", error),
        }
        env.check.lines.erode(self.line, self.disk.line());
        self.line = self.disk.line();
        self.config
            .handle_failure("the database could not be written".into(), false);
        self.is_faulty = true;
        self.probe_ms = env.now_ms + PROBE_MS;
        self.abort_waiters(Answer::Unknown);
        self.drain(env);
    }
}
