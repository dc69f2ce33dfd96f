//! `search`: images that a registry knows by a word.

use hull_api::client::Query;
use hull_api::registry::SearchResult;
use hull_oci::reference::Reference;
use serde_json::json;

use crate::command::{Arguments, Command, Failure, Outcome};
use crate::filters;
use crate::flags::{Flag, Given, integer};
use crate::format::{self, Format, List, Row, ellipsis};
use crate::session::{Session, print};

pub(crate) static SEARCH: Command = Command {
    paths: &["search"],
    usage: "[OPTIONS] TERM",
    summary: "Search a registry for images",
    arguments: Arguments::Exactly(1),
    stop_at_argument: false,
    flags: &[&[
        Flag::list("filter", filters::check, "Show only what meets a condition (is-official=true, stars=N)")
            .short('f')
            .label("filter"),
        Flag::text("format", crate::FORMAT_HELP),
        Flag::value("limit", "int", integer, "Most results"),
        Flag::switch("no-trunc", "Show values in full"),
    ]],
    run: |session, given| Box::pin(search(session, given)) as Outcome<'_>,
};

const LIST_OF: List = List {
    kind: "*formatter.searchContext",
    complaint: "template parsing error",
    headings: &[
        ("Name", "NAME"),
        ("Description", "DESCRIPTION"),
        ("StarCount", "STARS"),
        ("IsOfficial", "OFFICIAL"),
        ("IsAutomated", "AUTOMATED"),
    ],
};

/// Characters of a description that is not shown in full.
const DESCRIPTION: usize = 45;

async fn search(session: &Session, given: &Given) -> Result<u8, Failure> {
    let term = given.arguments[0].as_str();
    let limit = if given.has("limit") { given.text("limit") } else { "" };
    let query = Query::new().unless_empty("limit", limit).with("term", term);
    let query = filters::add(query, given.list("filter"));
    // A term that begins with a registry is asked there.
    let headers = match Reference::parse(term) {
        Ok(reference) => session.credentials().header(&reference)?,
        Err(_) => http::HeaderMap::new(),
    };
    let answer = session.client.get_with("/images/search", &query, &headers).await?;
    let found: Vec<SearchResult> = answer.json().await?;
    let full = given.on("no-trunc");
    let rows: Vec<Row> = found.iter().map(|found| row(found, full)).collect();
    let format = Format::parse(given.text("format"));
    let columns = ["Name", "Description", "StarCount", "IsOfficial"];
    print(&format::render(&format, &LIST_OF, &columns, &rows)?);
    Ok(0)
}

fn row(found: &SearchResult, full: bool) -> Row {
    let description = found.description.replace(['\n', '\r'], " ");
    let description = if full { description } else { ellipsis(&description, DESCRIPTION) };
    let tick = |is: bool| if is { "[OK]" } else { "" };
    format::row([
        ("Name", json!(found.name)),
        ("Description", json!(description)),
        ("StarCount", json!(found.star_count.to_string())),
        ("IsOfficial", json!(tick(found.is_official))),
        ("IsAutomated", json!(tick(found.is_automated))),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, answer};

    #[tokio::test]
    async fn a_search_asks_as_the_reference_asks() {
        let fake = Fake::start(|_| answer(200, "[]"));
        let words = ["--limit", "3", "-f", "stars=5", "h:5000/x"].map(str::to_owned);
        let given = crate::flags::parse(SEARCH.flags, false, &words).ok().unwrap();
        assert_eq!(search(&fake.session, &given).await.unwrap(), 0);
        let expected =
            "GET /images/search?filters=%7B%22stars%22%3A%7B%225%22%3Atrue%7D%7D&limit=3&term=h%3A5000%2Fx";
        assert_eq!(fake.asked(), [expected]);
    }

    #[test]
    fn a_long_description_is_cut() {
        let found = SearchResult {
            name: "ns/app".to_owned(),
            description: "a very long description\nof something that nobody has asked for".to_owned(),
            star_count: 7,
            is_official: true,
            ..SearchResult::default()
        };
        let shown = row(&found, false);
        assert_eq!(shown["Description"], "a very long description of something that no…");
        assert_eq!(
            (&shown["StarCount"], &shown["IsOfficial"], &shown["IsAutomated"]),
            (&json!("7"), &json!("[OK]"), &json!(""))
        );
        assert_eq!(row(&found, true)["Description"], found.description.replace('\n', " "));
    }
}
