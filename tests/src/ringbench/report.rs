//! Values of both daemons, side by side.

use std::fmt;

use serde::Serialize;

/// Which values are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Better {
    /// Small ones: times, memory.
    Lower,
    /// Large ones: rates.
    Higher,
}

/// Something that is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Metric {
    /// Its name; the same thing has the same name on both sides.
    pub name: String,
    /// Unit of the values.
    pub unit: &'static str,
    /// Which values are good.
    pub better: Better,
}

/// Values of one daemon on rings of one size, in the order of measuring.
#[derive(Clone, Debug, Default)]
pub struct Sheet {
    rows: Vec<(Metric, Vec<f64>)>,
}

impl Sheet {
    /// Adds a value.
    pub fn note(&mut self, metric: Metric, value: f64) {
        match self.rows.iter_mut().find(|(known, _)| *known == metric) {
            Some((_, values)) => values.push(value),
            None => self.rows.push((metric, vec![value])),
        }
    }

    fn values(&self, metric: &Metric) -> &[f64] {
        self.rows
            .iter()
            .find(|(known, _)| known == metric)
            .map_or(&[], |(_, values)| values)
    }
}

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Size of the ring.
    pub nodes: usize,
    /// What was measured.
    #[serde(flatten)]
    pub metric: Metric,
    /// All values of the first daemon.
    pub first: Vec<f64>,
    /// All values of the second daemon.
    pub second: Vec<f64>,
    /// How many times better the second one's median is; less than 1 is worse. `None` without
    /// two medians above zero.
    pub ratio: Option<f64>,
}

/// All results.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    names: [String; 2],
    rows: Vec<Row>,
    failures: Vec<String>,
}

impl Report {
    /// An empty one, for daemons of these names.
    #[must_use]
    pub fn new(names: [String; 2]) -> Self {
        Self {
            names,
            rows: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Adds something that went wrong.
    pub fn fail(&mut self, text: String) {
        self.failures.push(text);
    }

    /// What went wrong: measurements behind it are missing in the medians.
    #[must_use]
    pub fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Adds the values of both daemons on rings of one size.
    pub fn add(&mut self, nodes: usize, sheets: &[Sheet; 2]) {
        let [first, second] = sheets;
        let only_second = second
            .rows
            .iter()
            .filter(|(metric, _)| first.values(metric).is_empty());
        for (metric, _) in first.rows.iter().chain(only_second) {
            let (a, b) = (
                first.values(metric).to_vec(),
                second.values(metric).to_vec(),
            );
            self.rows.push(Row {
                nodes,
                metric: metric.clone(),
                ratio: ratio(metric.better, median(&a), median(&b)),
                first: a,
                second: b,
            });
        }
    }

    /// The lines.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }
}

fn ratio(better: Better, first: f64, second: f64) -> Option<f64> {
    (first > 0.0 && second > 0.0).then(|| match better {
        Better::Lower => first / second,
        Better::Higher => second / first,
    })
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (None, _) => 0.0,
        (Some(value), 1) => *value,
        (Some(value), _) => f64::midpoint(sorted[middle - 1], *value),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = &self.names;
        let (wide_first, wide_second) = (first.len().max(10), second.len().max(10));
        writeln!(
            f,
            "{:>5}  {:<34} {first:>wide_first$} {second:>wide_second$}  {:<7} {:>6}",
            "nodes", "", "", "ratio"
        )?;
        for row in &self.rows {
            let ratio = row
                .ratio
                .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
            writeln!(
                f,
                "{:>5}  {:<34} {:>wide_first$} {:>wide_second$}  {:<7} {ratio:>6}",
                row.nodes,
                row.metric.name,
                shown(&row.first),
                shown(&row.second),
                row.metric.unit,
            )?;
        }
        for failure in &self.failures {
            let line = failure.lines().next().unwrap_or_default();
            writeln!(f, "FAILED: {line}")?;
        }
        write!(
            f,
            "medians of the rounds; ratio: how many times better {second} is than {first}"
        )
    }
}

/// The median, with three digits or more.
fn shown(values: &[f64]) -> String {
    match median(values) {
        _ if values.is_empty() => "-".to_owned(),
        value @ 0.0..10.0 => format!("{value:.2}"),
        value @ 10.0..100.0 => format!("{value:.1}"),
        value => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(name: &str, better: Better) -> Metric {
        Metric {
            name: name.to_owned(),
            unit: "x",
            better,
        }
    }

    #[test]
    fn ratios_above_one_mean_that_the_second_is_better() {
        let mut sheets = [Sheet::default(), Sheet::default()];
        for (sheet, time, rate) in [(0, 10.0, 100.0), (0, 30.0, 100.0), (1, 10.0, 50.0)] {
            sheets[sheet].note(metric("time", Better::Lower), time);
            sheets[sheet].note(metric("rate", Better::Higher), rate);
        }
        sheets[0].note(metric("alone", Better::Higher), 1.0);
        let mut report = Report::new(["a".to_owned(), "b".to_owned()]);
        report.add(3, &sheets);
        let ratios: Vec<_> = report.rows().iter().map(|row| row.ratio).collect();
        assert_eq!(ratios, [Some(2.0), Some(0.5), None]);
        assert!(report.to_string().contains("2.00"));
    }
}
