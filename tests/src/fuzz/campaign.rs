//! A bounded campaign of mutations against one target.
//!
//! Inputs whose outcome has a shape that was not seen before are mutated further. A find is made
//! small and saved, and the campaign goes on; each place in the code is reported once.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::panic;
use std::path::PathBuf;
use std::sync::Once;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::Target;
use super::mutate::mutate;
use crate::sim::rng::Rng;
use crate::wait::{now, thread_cpu};

/// Inputs that are kept for mutating.
const POOL_MAX: usize = 4000;
/// Seeds longer than this slow everything down and find nothing more.
const SEED_LEN_MAX: usize = 16 << 10;
/// How long a find may be made smaller.
const MINIMISE: Duration = Duration::from_secs(10);
/// An input that takes so much CPU time is a find, too.
const SLOW: Duration = Duration::from_secs(2);

/// How long a campaign goes on.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// So many inputs.
    Inputs(u64),
    /// So much time.
    Time(Duration),
}

/// An input that breaks something.
#[derive(Clone, Debug)]
pub struct Find {
    /// The input, made small.
    pub input: Vec<u8>,
    /// Where, and what the panic said.
    pub text: String,
}

/// What a campaign did.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Inputs that were run.
    pub inputs: u64,
    /// Outcomes of different shape.
    pub shapes: usize,
    /// What was found.
    pub finds: Vec<Find>,
}

/// Runs an input; the text of the panic if it breaks something.
///
/// # Errors
/// That text.
pub fn attempt(target: &Target, input: &[u8]) -> Result<u64, String> {
    catch_texts();
    let start = thread_cpu();
    PANIC.set(Some(String::new()));
    let result = panic::catch_unwind(|| (target.run)(input));
    let text = PANIC.take().unwrap_or_default();
    let took = thread_cpu().saturating_sub(start);
    match result {
        Ok(_) if took > SLOW => Err(format!("takes more than {SLOW:?}")),
        Ok(shape) => Ok(shape),
        Err(_) => Err(text),
    }
}

thread_local! {
    /// Set while a target runs on this thread: where its panic leaves its text.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Panics of targets are results, not noise; those of others are shown as ever.
fn catch_texts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let is_target = PANIC.with_borrow_mut(|slot| {
                slot.as_mut().map(|text| *text = info.to_string()).is_some()
            });
            if !is_target {
                others(info);
            }
        }));
    });
}

/// Runs a campaign.
///
/// # Errors
/// When the saved inputs cannot be read.
pub fn run(target: &Target, seed: u64, limit: Limit) -> Result<Summary> {
    let mut rng = Rng::new(seed);
    let mut campaign = Campaign {
        target,
        start: now(),
        shapes: BTreeSet::new(),
        places: BTreeSet::new(),
        pool: vec![Vec::new()],
        summary: Summary::default(),
    };
    let saved = target.corpus()?.into_iter().map(|(_, input)| input);
    for input in saved.chain((target.seeds)()) {
        if input.len() <= SEED_LEN_MAX {
            campaign.run(input);
        }
    }
    while !campaign.is_over(limit) {
        let parent = rng.index(campaign.pool.len());
        let other = rng.index(campaign.pool.len());
        let (parent, other) = (&campaign.pool[parent], &campaign.pool[other]);
        let input = mutate(&mut rng, target.form, parent, other);
        campaign.run(input);
    }
    campaign.summary.shapes = campaign.shapes.len();
    Ok(campaign.summary)
}

struct Campaign<'a> {
    target: &'a Target,
    start: Instant,
    shapes: BTreeSet<u64>,
    places: BTreeSet<String>,
    pool: Vec<Vec<u8>>,
    summary: Summary,
}

impl Campaign<'_> {
    fn is_over(&self, limit: Limit) -> bool {
        match limit {
            Limit::Inputs(count) => self.summary.inputs >= count,
            Limit::Time(time) => self.start.elapsed() >= time,
        }
    }

    fn run(&mut self, input: Vec<u8>) {
        self.summary.inputs += 1;
        match attempt(self.target, &input) {
            Ok(shape) => {
                if self.shapes.insert(shape) && self.pool.len() < POOL_MAX {
                    self.pool.push(input);
                }
            }
            Err(text) => {
                if self.places.insert(place(&text)) {
                    let input = minimise(self.target, input, &place(&text));
                    self.summary.finds.push(Find { input, text });
                }
            }
        }
    }
}

/// First line of a panic: where it was. What it said differs from input to input.
fn place(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// Takes away what is not needed to break the same place.
fn minimise(target: &Target, mut input: Vec<u8>, wanted: &str) -> Vec<u8> {
    let start = now();
    let mut piece = input.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at < input.len() {
            if start.elapsed() > MINIMISE {
                return input;
            }
            let mut shorter = input.clone();
            shorter.drain(at..(at + piece).min(input.len()));
            let breaks = attempt(target, &shorter).is_err_and(|text| place(&text) == wanted);
            if breaks {
                input = shorter;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    input
}

/// Saves an input in the corpus of its target.
///
/// # Errors
/// When it cannot be written.
pub fn save(target: &Target, input: &[u8]) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let folder = target.folder();
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{:016x}", hasher.finish()));
    fs::write(&path, input).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::mutate::Form;

    fn fragile(input: &[u8]) -> u64 {
        assert!(
            !(input.contains(&b'x') && input.contains(&b'y')),
            "both letters in {input:?}"
        );
        input.len() as u64
    }

    #[test]
    fn finds_are_reported_once_and_small() {
        let target = Target {
            name: "fragile",
            form: Form::Message,
            run: fragile,
            seeds: || vec![b"abcdefghijklmnopqrstuvwx".to_vec(), b"yza".to_vec()],
        };
        let summary = run(&target, 1, Limit::Inputs(2000)).unwrap();
        assert_eq!(summary.finds.len(), 1, "{:?}", summary.finds);
        assert_eq!(summary.finds[0].input.len(), 2);
        assert!(summary.finds[0].text.contains("both letters"));
    }
}
