//! `bench list`: what there is.

use losses::MethodConfig;

use super::print;
use crate::cli::Listing;
use crate::suite;

/// Prints one listing, or all.
pub(crate) fn list(what: Option<Listing>) {
    let all = [Listing::Methods, Listing::Datasets, Listing::Backbones, Listing::Suites];
    let wanted = what.map_or(all.to_vec(), |one| vec![one]);
    for listing in &wanted {
        let (title, rows) = rows(*listing);
        if wanted.len() > 1 {
            print(&format!("{title}\n"));
        }
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let indent = if wanted.len() > 1 { "  " } else { "" };
        for (name, about) in rows {
            print(&format!("{indent}{name:<width$}  {about}\n"));
        }
    }
}

fn rows(listing: Listing) -> (&'static str, Vec<(String, String)>) {
    let owned = |rows: &[(&str, &str)]| rows.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    match listing {
        Listing::Methods => {
            let rows =
                MethodConfig::registry().into_iter().map(|(name, m)| (name.to_owned(), m.description().to_owned()));
            ("methods", rows.collect())
        }
        Listing::Datasets => ("datasets", owned(datasets::DatasetConfig::KINDS)),
        Listing::Backbones => ("backbones", owned(backbones::BackboneConfig::KINDS)),
        Listing::Suites => ("suites", suite::available()),
    }
}
