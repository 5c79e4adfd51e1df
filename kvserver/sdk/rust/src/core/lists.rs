//! The options of lists and prefix deletes.

use crate::core::calls::{Call, Kind};
use crate::core::model::Revision;
use crate::core::paths::with_query;
use http::Method;

/// Which keys of a list, and how.
///
/// ```
/// use kvserver_client::List;
/// let newest_ten = List::prefix("log/").reverse().limit(10).values();
/// ```
#[derive(Debug, Clone, Default)]
pub struct List {
    prefix: String,
    after: Option<String>,
    before: Option<String>,
    limit: Option<u32>,
    reverse: bool,
    values: bool,
    delimiter: Option<String>,
}

impl List {
    /// List the keys that begin with `prefix`; all of them if it is empty.
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..Self::default() }
    }

    /// Begin after this key.
    #[must_use]
    pub fn after(mut self, key: impl Into<String>) -> Self {
        self.after = Some(key.into());
        self
    }

    /// End before this key.
    #[must_use]
    pub fn before(mut self, key: impl Into<String>) -> Self {
        self.before = Some(key.into());
        self
    }

    /// Set how many items a page has: 1 to 1,000. Default: 100, and 1,000 for `scan`.
    #[must_use]
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Go backwards.
    #[must_use]
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// Bring the values too.
    #[must_use]
    pub fn values(mut self) -> Self {
        self.values = true;
        self
    }

    /// Fold what follows the next `delimiter` after the prefix, as folders do.
    #[must_use]
    pub fn delimiter(mut self, delimiter: impl Into<String>) -> Self {
        self.delimiter = Some(delimiter.into());
        self
    }

    /// Go on where a page ended.
    pub(crate) fn continued(mut self, next: String) -> Self {
        if self.reverse {
            self.before = Some(next);
        } else {
            self.after = Some(next);
        }
        self
    }

    pub(crate) fn limit_or(mut self, limit: u32) -> Self {
        self.limit.get_or_insert(limit);
        self
    }

    pub(crate) fn call(&self) -> Call {
        let mut query = vec![("prefix", self.prefix.clone())];
        query.extend(self.after.clone().map(|key| ("after", key)));
        query.extend(self.before.clone().map(|key| ("before", key)));
        query.extend(self.limit.map(|limit| ("limit", limit.to_string())));
        query.extend(self.reverse.then(|| ("reverse", "true".to_owned())));
        query.extend(self.values.then(|| ("values", "true".to_owned())));
        query.extend(self.delimiter.clone().map(|text| ("delimiter", text)));
        Call::read(Method::GET, with_query("/v1/kv", &query))
    }
}

/// The options of a prefix delete.
///
/// ```
/// use kvserver_client::DeletePrefix;
/// let trial = DeletePrefix::of("session/").dry_run();
/// let everything = DeletePrefix::everything();
/// ```
#[derive(Debug, Clone, Default)]
pub struct DeletePrefix {
    prefix: String,
    pub(crate) dry_run: bool,
    pub(crate) limit: Option<u64>,
    all: bool,
}

impl DeletePrefix {
    /// Delete the keys that begin with `prefix`, which is not empty.
    pub fn of(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), ..Self::default() }
    }

    /// Delete every key.
    pub fn everything() -> Self {
        Self { all: true, ..Self::default() }
    }

    /// Delete nothing, but count.
    #[must_use]
    pub fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// Delete so many keys at most.
    #[must_use]
    pub fn limit(mut self, limit: u64) -> Self {
        self.limit = Some(limit);
        self
    }

    pub(crate) fn call(&self, limit: Option<u64>, cut: Option<Revision>) -> Call {
        let mut query = vec![("prefix", self.prefix.clone())];
        query.extend(self.dry_run.then(|| ("dry_run", "true".to_owned())));
        query.extend(limit.map(|limit| ("limit", limit.to_string())));
        query.extend(self.all.then(|| ("all", "true".to_owned())));
        query.extend(cut.map(|cut| ("cut", cut.to_string())));
        let mut call = Call::write(Method::DELETE, with_query("/v1/kv", &query), None);
        call.kind = match cut {
            _ if self.dry_run => Kind::Read,
            None => Kind::Once, // a repeat would delete what was written after the first
            Some(_) => Kind::Conditional,
        };
        call
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_becomes_a_query() {
        let list = List::prefix("a/").after("a/b").limit(5).values().delimiter("/");
        assert_eq!(list.call().target, "/v1/kv?prefix=a%2F&after=a%2Fb&limit=5&values=true&delimiter=%2F");
    }

    #[test]
    fn a_list_goes_on_in_its_direction() {
        let next = || "k".to_owned();
        assert_eq!(List::prefix("").continued(next()).call().target, "/v1/kv?prefix=&after=k");
        assert_eq!(List::prefix("").reverse().continued(next()).call().target, "/v1/kv?prefix=&before=k&reverse=true");
    }

    #[test]
    fn deletes_name_what_goes() {
        assert_eq!(
            DeletePrefix::of("a/").dry_run().call(Some(3), None).target,
            "/v1/kv?prefix=a%2F&dry_run=true&limit=3"
        );
        assert_eq!(DeletePrefix::everything().call(None, Some(7)).target, "/v1/kv?prefix=&all=true&cut=7");
    }

    #[test]
    fn a_delete_may_be_repeated_with_a_cut_and_as_a_trial() {
        let what = DeletePrefix::of("a/");
        assert_eq!(what.call(None, None).kind, Kind::Once);
        assert_eq!(what.call(None, Some(7)).kind, Kind::Conditional);
        assert_eq!(what.dry_run().call(None, None).kind, Kind::Read);
    }
}
