//! What users and roles have in common: a name and a path, policies written into them and attached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wambda_control::directory::{Directory, Entity, Role, User, access_key_id};
use wambda_model::clock;
use wambda_model::limits::{IDENTITIES_MAX, POLICIES_MAX};

use super::{error, identity_document, shown_document};
use crate::ApiError;
use crate::aws::generated::iam::AttachedPolicy;
use crate::name::Page;

/// Elements of one page when nobody says, and at most (IAM's).
const PAGE: i64 = 100;
const PAGE_MAX: usize = 1_000;

/// Users or roles.
pub(crate) trait Kind: Clone {
    const NOUN: &'static str;
    /// The same at the beginning of a sentence.
    const TITLE: &'static str;
    fn all(directory: &Directory) -> &BTreeMap<String, Arc<Self>>;
    fn all_mut(directory: &mut Directory) -> &mut BTreeMap<String, Arc<Self>>;
    fn entity(&self) -> &Entity;
    fn entity_mut(&mut self) -> &mut Entity;
}

impl Kind for Role {
    const NOUN: &'static str = "role";
    const TITLE: &'static str = "Role";
    fn all(directory: &Directory) -> &BTreeMap<String, Arc<Self>> {
        &directory.roles
    }
    fn all_mut(directory: &mut Directory) -> &mut BTreeMap<String, Arc<Self>> {
        &mut directory.roles
    }
    fn entity(&self) -> &Entity {
        &self.entity
    }
    fn entity_mut(&mut self) -> &mut Entity {
        &mut self.entity
    }
}

impl Kind for User {
    const NOUN: &'static str = "user";
    const TITLE: &'static str = "User";
    fn all(directory: &Directory) -> &BTreeMap<String, Arc<Self>> {
        &directory.users
    }
    fn all_mut(directory: &mut Directory) -> &mut BTreeMap<String, Arc<Self>> {
        &mut directory.users
    }
    fn entity(&self) -> &Entity {
        &self.entity
    }
    fn entity_mut(&mut self) -> &mut Entity {
        &mut self.entity
    }
}

fn missing<K: Kind>(name: &str) -> ApiError {
    let message = format!("The {} with name {name} cannot be found.", K::NOUN);
    error("NoSuchEntity", message)
}

/// The one of that name.
pub(crate) fn find<K: Kind>(directory: &Directory, name: &str) -> Result<Arc<K>, ApiError> {
    K::all(directory).get(name).cloned().ok_or_else(|| missing::<K>(name))
}

/// Changes the one of that name.
pub(crate) fn change<K: Kind, T>(
    directory: &mut Directory,
    name: &str,
    edit: impl FnOnce(&mut K) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    let all = K::all_mut(directory);
    let mut entity = (**all.get(name).ok_or_else(|| missing::<K>(name))?).clone();
    let value = edit(&mut entity)?;
    all.insert(name.to_owned(), Arc::new(entity));
    Ok(value)
}

/// What a new one is made from.
pub(crate) struct New<'a> {
    pub(crate) name: &'a str,
    pub(crate) path: Option<&'a str>,
    pub(crate) account: &'a str,
    /// `AROA` or `AIDA`.
    pub(crate) prefix: &'a str,
    pub(crate) tags: BTreeMap<String, String>,
}

/// A new one, when there is room for it.
pub(crate) fn make<K: Kind>(directory: &Directory, new: New<'_>) -> Result<Entity, ApiError> {
    let New { name, path, account, prefix, tags } = new;
    let all = K::all(directory);
    let same = all.keys().find(|known| known.eq_ignore_ascii_case(name));
    if same.is_some() {
        let message = format!("{} with name {name} already exists.", K::TITLE);
        return Err(error("EntityAlreadyExists", message));
    }
    if all.len() >= IDENTITIES_MAX {
        let message = format!("there may be {IDENTITIES_MAX} {}s", K::NOUN);
        return Err(error("LimitExceeded", message));
    }
    let path = path.unwrap_or("/");
    if !(path.starts_with('/') && path.ends_with('/')) {
        return Err(ApiError::aws(
            400,
            "ValidationError",
            "The specified value for path is invalid. It must begin and end with / and contain only alphanumeric characters and/or / characters.",
        ));
    }
    Ok(Entity {
        name: name.to_owned(),
        path: path.to_owned(),
        id: access_key_id(prefix),
        arn: format!("arn:aws:iam::{account}:{}{path}{name}", K::NOUN),
        created_ms: clock::unix_ms(),
        tags,
        inline: BTreeMap::new(),
        attached: BTreeSet::new(),
    })
}

/// Removes one that nothing hangs on any more.
pub(crate) fn remove<K: Kind>(directory: &mut Directory, name: &str) -> Result<(), ApiError> {
    let found = find::<K>(directory, name)?;
    let entity = found.entity();
    if !entity.attached.is_empty() {
        return Err(error(
            "DeleteConflict",
            "Cannot delete entity, must detach all policies first.",
        ));
    }
    if !entity.inline.is_empty() {
        return Err(error("DeleteConflict", "Cannot delete entity, must delete policies first."));
    }
    K::all_mut(directory).remove(name);
    Ok(())
}

pub(crate) fn attach<K: Kind>(
    directory: &mut Directory,
    name: &str,
    arn: &str,
) -> Result<(), ApiError> {
    if !directory.policies.contains_key(arn) {
        let message = format!("Policy {arn} does not exist or is not attachable.");
        return Err(error("NoSuchEntity", message));
    }
    change(directory, name, |entity: &mut K| {
        let attached = &mut entity.entity_mut().attached;
        if attached.len() >= POLICIES_MAX && !attached.contains(arn) {
            let message =
                format!("Cannot exceed quota for PoliciesPer{}: {POLICIES_MAX}", K::TITLE);
            return Err(error("LimitExceeded", message));
        }
        attached.insert(arn.to_owned());
        Ok(())
    })
}

pub(crate) fn detach<K: Kind>(
    directory: &mut Directory,
    name: &str,
    arn: &str,
) -> Result<(), ApiError> {
    change(directory, name, |entity: &mut K| {
        if entity.entity_mut().attached.remove(arn) {
            return Ok(());
        }
        Err(error("NoSuchEntity", format!("Policy {arn} was not found.")))
    })
}

pub(crate) fn put_inline<K: Kind>(
    directory: &mut Directory,
    name: &str,
    policy: &str,
    document: &str,
) -> Result<(), ApiError> {
    let document = Arc::new(identity_document(document)?);
    change(directory, name, |entity: &mut K| {
        let inline = &mut entity.entity_mut().inline;
        if inline.len() >= POLICIES_MAX && !inline.contains_key(policy) {
            let message = format!("a {} may have {POLICIES_MAX} inline policies", K::NOUN);
            return Err(error("LimitExceeded", message));
        }
        inline.insert(policy.to_owned(), document);
        Ok(())
    })
}

fn no_inline<K: Kind>(policy: &str) -> ApiError {
    let message = format!("The {} policy with name {policy} cannot be found.", K::NOUN);
    error("NoSuchEntity", message)
}

/// A policy that is written into one, as IAM shows it.
pub(crate) fn inline<K: Kind>(entity: &K, policy: &str) -> Result<String, ApiError> {
    let found = entity.entity().inline.get(policy).ok_or_else(|| no_inline::<K>(policy))?;
    Ok(shown_document(found))
}

pub(crate) fn delete_inline<K: Kind>(
    directory: &mut Directory,
    name: &str,
    policy: &str,
) -> Result<(), ApiError> {
    change(directory, name, |entity: &mut K| {
        let removed = entity.entity_mut().inline.remove(policy);
        removed.map(drop).ok_or_else(|| no_inline::<K>(policy))
    })
}

/// A page, whether there is more, and the marker of that.
type Paged<T> = (Vec<T>, Option<bool>, Option<String>);

/// A page, and the marker of the next, as IAM shows them.
pub(crate) fn page<T>(
    marker: Option<&str>,
    items: Option<i64>,
    all: impl Iterator<Item = T>,
) -> Result<Paged<T>, ApiError> {
    let page = Page::read(marker, items.or(Some(PAGE)), PAGE_MAX);
    let page = page.map_err(|wrong| wrong.named(400, "InvalidInput"))?;
    let (page, next) = page.of(all);
    Ok((page, Some(next.is_some()), next))
}

/// The policies attached to one, as IAM shows them.
pub(crate) fn attached(entity: &Entity, prefix: Option<&str>) -> Vec<AttachedPolicy> {
    let wanted = |arn: &&String| {
        let path = arn.split_once(":policy").map_or("", |(_, path)| path);
        prefix.is_none_or(|prefix| path.starts_with(prefix))
    };
    let shown = |arn: &String| AttachedPolicy {
        policy_arn: Some(arn.clone()),
        policy_name: arn.rsplit('/').next().map(str::to_owned),
    };
    entity.attached.iter().filter(wanted).map(shown).collect()
}
