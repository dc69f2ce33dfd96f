//! Samples, taken in turn so that a busy moment of the machine hits everyone alike, and the
//! Markdown table made of them.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;

/// One subject of a measure: whose it is, and how a sample of all its parts is taken.
pub(crate) struct Subject<'a> {
    pub(crate) name: String,
    sample: Box<dyn FnMut() -> Result<Vec<f64>> + 'a>,
}

impl<'a> Subject<'a> {
    pub(crate) fn new(name: &str, mut sample: impl FnMut() -> Result<f64> + 'a) -> Subject<'a> {
        Subject::of_parts(name, move || Ok(vec![sample()?]))
    }

    /// A subject whose samples give several values, in the order of [`interleave_parts`]' rows; the
    /// last ones may be absent.
    pub(crate) fn of_parts(name: &str, sample: impl FnMut() -> Result<Vec<f64>> + 'a) -> Subject<'a> {
        Subject { name: name.to_owned(), sample: Box::new(sample) }
    }
}

/// What was measured of one subject. Without samples it failed, and `failure` says how.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) samples: Vec<f64>,
    pub(crate) failure: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) columns: Vec<Column>,
}

/// Takes `rounds` samples of each subject in turn, after one that does not count, with `gap`
/// before each. A subject that fails once is out.
pub(crate) fn interleave(
    what: &str,
    unit: &'static str,
    rounds: usize,
    gap: Duration,
    subjects: Vec<Subject<'_>>,
) -> Row {
    let columns = samples(what, rounds, gap, subjects).into_iter().map(|taken| taken.column(0));
    Row { what: what.to_owned(), unit, columns: columns.collect() }
}

/// The same where a sample has several parts: a row (named, with its unit) for each.
pub(crate) fn interleave_parts(
    parts: &[(String, &'static str)],
    rounds: usize,
    gap: Duration,
    subjects: Vec<Subject<'_>>,
) -> Vec<Row> {
    let what = parts.first().map(|(what, _)| what.as_str()).unwrap_or_default();
    let taken = samples(what, rounds, gap, subjects);
    let row = |(index, (what, unit)): (usize, &(String, &'static str))| {
        let columns = taken.iter().map(|taken| taken.column(index));
        let columns = columns.filter(|c| c.failure.is_some() || !c.samples.is_empty()).collect();
        Row { what: what.clone(), unit, columns }
    };
    parts.iter().enumerate().map(row).collect()
}

/// A subject's samples, each with its parts.
struct Taken {
    name: String,
    samples: Vec<Vec<f64>>,
    failure: Option<String>,
}

impl Taken {
    fn column(&self, part: usize) -> Column {
        let samples = self.samples.iter().filter_map(|sample| sample.get(part)).copied().collect();
        Column { name: self.name.clone(), samples, failure: self.failure.clone() }
    }
}

fn samples(what: &str, rounds: usize, gap: Duration, subjects: Vec<Subject<'_>>) -> Vec<Taken> {
    eprintln!("bench: {what}");
    let mut running: Vec<_> = subjects
        .into_iter()
        .map(|subject| {
            let taken = Taken { name: subject.name.clone(), samples: Vec::new(), failure: None };
            (subject, taken)
        })
        .collect();
    for round in 0..=rounds {
        for (subject, taken) in running.iter_mut().filter(|(_, t)| t.failure.is_none()) {
            sleep(gap);
            match (subject.sample)() {
                Ok(parts) if round > 0 => taken.samples.push(parts),
                Ok(_) => {}
                Err(error) => {
                    taken.samples.clear();
                    taken.failure = Some(format!("{error:#}"));
                }
            }
        }
    }
    running.into_iter().map(|(_, taken)| taken).collect()
}

/// The sample at a share of the sorted samples.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a handful of samples")]
    let at = (sorted.len().saturating_sub(1) as f64 * share).round();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the length")]
    let at = at as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    (!sorted.is_empty()).then(|| quantile(&sorted, 0.5))
}

/// Three figures, as many as a loaded machine's measure deserves.
fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn cell(column: &Column) -> String {
    let mut sorted = column.samples.clone();
    sorted.sort_by(f64::total_cmp);
    match sorted.as_slice() {
        [] => "failed".to_owned(),
        [one] => number(*one),
        [first, .., last] => format!(
            "{} ({}–{}; {}–{})",
            number(quantile(&sorted, 0.5)),
            number(*first),
            number(*last),
            number(quantile(&sorted, 0.1)),
            number(quantile(&sorted, 0.9)),
        ),
    }
}

/// A table with a column for each subject, and the first subject's median as a share of each
/// other's. Rows with other subjects than the first row's get empty cells.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for column in rows.iter().flat_map(|row| &row.columns) {
        if !names.contains(&column.name.as_str()) {
            names.push(&column.name);
        }
    }
    let Some((first, others)) = names.split_first() else {
        return String::new();
    };
    let ratios: Vec<_> = others.iter().map(|name| format!("{first}/{name}")).collect();
    let head: Vec<&str> = ["measure", "unit"]
        .into_iter()
        .chain(names.iter().copied())
        .chain(ratios.iter().map(String::as_str))
        .collect();
    let mut out = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for row in rows {
        let find = |name: &str| row.columns.iter().find(|c| c.name == name);
        let mut cells = vec![row.what.clone(), row.unit.to_owned()];
        cells.extend(names.iter().map(|name| find(name).map_or(String::new(), cell)));
        let ours = find(first).and_then(|c| median(&c.samples));
        for name in others {
            let theirs = find(name).and_then(|c| median(&c.samples));
            cells.push(match (ours, theirs) {
                (Some(ours), Some(theirs)) if theirs > 0.0 => format!("{:.3}", ours / theirs),
                _ => String::new(),
            });
        }
        out += &format!("| {} |\n", cells.join(" | "));
    }
    let failures: Vec<_> = rows
        .iter()
        .flat_map(|row| row.columns.iter().map(move |c| (row, c)))
        .filter_map(|(row, c)| Some(format!("- {}, {}: {}\n", row.what, c.name, c.failure.as_ref()?)))
        .collect();
    if !failures.is_empty() {
        out += "\nFailed:\n";
        out += &failures.concat();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_take_turns_and_the_first_round_does_not_count() {
        let order = std::cell::RefCell::new(String::new());
        let subject = |name: &'static str, fails_at: usize| {
            let order = &order;
            let mut count = 0;
            Subject::new(name, move || {
                count += 1;
                order.borrow_mut().push_str(name);
                anyhow::ensure!(count != fails_at, "no {name}");
                #[expect(clippy::cast_precision_loss, reason = "small")]
                Ok(count as f64)
            })
        };
        let row = interleave("m", "ms", 3, Duration::ZERO, vec![subject("a", 0), subject("b", 2)]);
        assert_eq!(*order.borrow(), "ababaa");
        assert_eq!(row.columns[0].samples, [2.0, 3.0, 4.0]);
        assert_eq!(row.columns[1].failure.as_deref(), Some("no b"));
    }

    #[test]
    fn each_part_of_a_sample_has_its_row() {
        let whole = Subject::of_parts("a", || Ok(vec![1.0, 2.0]));
        let first_only = Subject::new("b", || Ok(3.0));
        let fails = Subject::of_parts("c", || anyhow::bail!("no c"));
        let parts = [("one".to_owned(), "ms"), ("two".to_owned(), "MiB")];
        let rows = interleave_parts(&parts, 1, Duration::ZERO, vec![whole, first_only, fails]);
        let shape =
            |row: &Row| row.columns.iter().map(|c| (c.name.clone(), c.samples.clone())).collect::<Vec<_>>();
        let failed = ("c".to_owned(), vec![]);
        assert_eq!(
            shape(&rows[0]),
            [("a".to_owned(), vec![1.0]), ("b".to_owned(), vec![3.0]), failed.clone()]
        );
        assert_eq!(shape(&rows[1]), [("a".to_owned(), vec![2.0]), failed]);
        assert_eq!((rows[1].what.as_str(), rows[1].unit), ("two", "MiB"));
    }

    #[test]
    fn a_table_has_medians_ranges_and_ratios() {
        let column = |name: &str, samples: &[f64]| Column {
            name: name.into(),
            samples: samples.to_vec(),
            failure: samples.is_empty().then(|| "gone".into()),
        };
        let row = Row {
            what: "start".into(),
            unit: "ms",
            columns: vec![column("hull", &[2.0, 1.0, 3.0]), column("peer", &[20.0]), column("old", &[])],
        };
        assert_eq!(
            table(&[row]),
            "| measure | unit | hull | peer | old | hull/peer | hull/old |\n|---|---|---|---|---|---|---|\n\
             | start | ms | 2.00 (1.00–3.00; 1.00–3.00) | 20.0 | failed | 0.100 |  |\n\nFailed:\n- start, old: gone\n"
        );
    }
}
