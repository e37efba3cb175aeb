//! Selecting trials by `--only`.
//!
//! An expression is a list of terms joined by commas, all of which must hold; a term is `key=pattern|pattern…`, of
//! which one must match; a pattern may hold `*` for any run of characters. Given several times, a trial is
//! selected if one of the expressions selects it.

use std::collections::BTreeSet;

use crate::error::ExpectedError;
use crate::plan::Trial;

const KEYS: [&str; 5] = ["method", "dataset", "backbone", "seed", "trial"];

/// Parsed `--only` expressions; none selects everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    text: Vec<String>,
    any_of: Vec<Vec<(String, Vec<String>)>>,
}

impl Selection {
    /// Parses the expressions.
    pub(crate) fn parse(expressions: &[String]) -> Result<Self, ExpectedError> {
        let any_of = expressions.iter().map(|e| parse_expression(e)).collect::<Result<_, _>>()?;
        Ok(Self { text: expressions.to_vec(), any_of })
    }

    /// True if the trial is selected.
    pub(crate) fn selects(&self, trial: &Trial) -> bool {
        self.any_of.is_empty() || self.any_of.iter().any(|all| all.iter().all(|(key, p)| holds(key, p, trial)))
    }

    /// True if a trial with these values, each with its key, can be selected.
    pub(crate) fn may_select(&self, values: &[(&str, &str)]) -> bool {
        let fits = |(key, patterns): &(String, Vec<String>)| {
            let value = values.iter().find(|(known, _)| known == key);
            value.is_none_or(|(_, value)| patterns.iter().any(|pattern| matches(pattern, value)))
        };
        self.any_of.is_empty() || self.any_of.iter().any(|all| all.iter().all(fits))
    }

    /// True if a trial of the dataset can be selected.
    pub(crate) fn may_select_dataset(&self, name: &str) -> bool {
        self.may_select(&[("dataset", name)])
    }

    /// The patterns that match nothing among the trials, as `key=pattern`: misspelt, most likely.
    pub(crate) fn idle_patterns(&self, trials: &[Trial]) -> Vec<String> {
        let terms = self.any_of.iter().flatten();
        let patterns = terms.flat_map(|(key, patterns)| patterns.iter().map(move |p| (key, p)));
        patterns
            .filter(|(key, pattern)| !trials.iter().any(|t| matches(pattern, &value(key, t))))
            .map(|(key, pattern)| format!("{key}={pattern}"))
            .collect()
    }

    /// The selected trials; none at all is an error that names what there is.
    pub(crate) fn apply<'a>(&self, trials: &'a [Trial]) -> Result<Vec<&'a Trial>, ExpectedError> {
        let selected: Vec<&Trial> = trials.iter().filter(|t| self.selects(t)).collect();
        if selected.is_empty() {
            let names = |key: &str| {
                let set: BTreeSet<String> = trials.iter().map(|t| value(key, t)).collect();
                format!("{key}: {}", set.into_iter().collect::<Vec<_>>().join(", "))
            };
            let hint = KEYS[..4].iter().map(|key| names(key)).collect::<Vec<_>>().join("\n      ");
            let expression = self.text.join("` or `");
            return Err(ExpectedError::NothingSelected { expression, trials: trials.len(), hint });
        }
        Ok(selected)
    }
}

fn parse_expression(expression: &str) -> Result<Vec<(String, Vec<String>)>, ExpectedError> {
    expression
        .split(',')
        .map(|term| {
            let usage = |message: String| ExpectedError::Usage {
                message,
                hint: format!(
                    "write `key=pattern|pattern,key=pattern`, with the keys {}; for example \
                     `--only 'method=ce|triplet,dataset=soy*'`",
                    KEYS.join(", ")
                ),
            };
            let (key, patterns) =
                term.split_once('=').ok_or_else(|| usage(format!("`--only {expression}`: `{term}` has no `=`")))?;
            let (key, patterns) = (key.trim(), patterns.trim());
            if !KEYS.contains(&key) {
                return Err(usage(format!("`--only {expression}`: unknown key `{key}`")));
            }
            Ok((key.to_owned(), patterns.split('|').map(|p| p.trim().to_owned()).collect()))
        })
        .collect()
}

fn value(key: &str, trial: &Trial) -> String {
    match key {
        "method" => trial.method.clone(),
        "dataset" => trial.dataset.clone(),
        "backbone" => trial.backbone.clone(),
        "seed" => trial.seed.to_string(),
        _ => trial.id.clone(),
    }
}

fn holds(key: &str, patterns: &[String], trial: &Trial) -> bool {
    let value = value(key, trial);
    patterns.iter().any(|pattern| matches(pattern, &value))
}

/// True if `text` matches `pattern`, in which `*` stands for any run of characters.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests as fixtures;

    fn count(expressions: &[&str]) -> Result<usize, ExpectedError> {
        let suite = fixtures::smoke();
        let plan = fixtures::planned(&suite);
        let expressions: Vec<String> = expressions.iter().map(|s| (*s).to_owned()).collect();
        Ok(Selection::parse(&expressions)?.apply(&plan.trials)?.len())
    }

    #[test]
    fn terms_are_and_patterns_are_or_expressions_are_or() {
        assert_eq!(count(&[]).unwrap(), 40);
        assert_eq!(count(&["method=ce|triplet"]).unwrap(), 10);
        assert_eq!(count(&["method=ce|triplet,dataset=soy*"]).unwrap(), 8);
        assert_eq!(count(&["method=ce", "dataset=cotton80"]).unwrap(), 12);
        assert_eq!(count(&["seed=42, method=*-bw"]).unwrap(), 5);
    }

    #[test]
    fn nothing_selected_and_unknown_keys_say_what_there_is() {
        let error = count(&["method=cee"]).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(matches!(&error, ExpectedError::NothingSelected { hint, .. } if hint.contains("pac-mcl-bw")));
        let error = count(&["methd=ce"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("methd"));
        assert_eq!(count(&["ce"]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_pattern_that_matches_nothing_is_found() {
        let suite = fixtures::smoke();
        let trials = fixtures::planned(&suite).trials;
        let selection = Selection::parse(&["method=ce|tripplet,dataset=soy*".to_owned()]).unwrap();
        assert_eq!(selection.idle_patterns(&trials), ["method=tripplet"]);
        assert!(selection.may_select_dataset("soygene") && !selection.may_select_dataset("cotton80"));
        let two = Selection::parse(&["method=ce,backbone=n*".to_owned(), "method=dsot".to_owned()]).unwrap();
        assert!(two.may_select(&[("backbone", "wide")]) && !two.may_select(&[("backbone", "wide"), ("method", "ce")]));
        assert!(two.may_select(&[("backbone", "narrow"), ("method", "ce")]));
    }

    #[test]
    fn stars_match_any_run() {
        for (pattern, text, expected) in [
            ("soy*", "soygene", true),
            ("*gene", "soygene", true),
            ("s*g*e", "soygene", true),
            ("soy", "soygene", false),
            ("*", "", true),
            ("a*a", "a", false),
            ("*x*", "soygene", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} on {text}");
        }
    }
}
