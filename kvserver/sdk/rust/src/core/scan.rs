//! A list over all its pages.

use crate::core::errors::Error;
use crate::core::lists::List;
use crate::core::model::Item;
use crate::core::scripts::Context;
use crate::core::shell::Shell;
use std::collections::VecDeque;

/// A walk through the pages of a list.
pub(crate) struct Walk {
    /// The next page; `None`: there is none.
    list: Option<List>,
    items: VecDeque<Item>,
    pub(crate) cursor: Option<String>,
}

impl Walk {
    pub(crate) fn new(list: &List) -> Self {
        Self { list: Some(list.clone().limit_or(1_000)), items: VecDeque::new(), cursor: None }
    }

    /// Return an item that is here already.
    pub(crate) fn take(&mut self) -> Option<Item> {
        self.items.pop_front()
    }

    /// Return the next item, from the next page if need be.
    pub(crate) async fn next<S: Shell>(&mut self, context: &Context<S>) -> Option<Result<Item, Error>> {
        loop {
            if let Some(item) = self.take() {
                return Some(Ok(item));
            }
            let list = self.list.take()?;
            match context.page(&list).await {
                Ok(page) => {
                    self.items = page.items.into();
                    self.cursor.get_or_insert(page.cursor);
                    self.list = page.next.map(|next| list.continued(next));
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
