//! Who there is: users with access keys, roles, policies. Small: what Lambda's users, Terraform and
//! SDKs need of IAM and STS. An immutable snapshot for readers, one record an entity on disk.
//!
//! The rules of IAM's operations (names, limits, conflicts) are in the `api` crate, which changes the
//! directory through [`Directories::edit`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use wambda_model::{Clock, FunctionName};
use wambda_policy::{Grants, Policy, Principal, grants};
use wambda_store::{Expect, Records, StoreError};

use crate::managed;
use crate::session::{Session, SessionKey};
use crate::table::{read_all, to_the_end};
use crate::{Identity, table};

/// What users and roles have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entity {
    /// Its name.
    pub name: String,
    /// `/`, or a path in the ARN.
    pub path: String,
    /// Unique, and never used again.
    pub id: String,
    /// Its ARN.
    pub arn: String,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Policies written into it, by name.
    #[serde(default)]
    pub inline: BTreeMap<String, Arc<Policy>>,
    /// ARNs of policies attached to it.
    #[serde(default)]
    pub attached: BTreeSet<String>,
}

/// A role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Role {
    /// Name, policies and so on.
    pub entity: Entity,
    /// Who may assume it.
    pub trust: Policy,
    /// For people.
    #[serde(default)]
    pub description: Option<String>,
    /// Seconds of its longest session.
    pub session_max_s: u32,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct User {
    /// Name, policies and so on.
    pub entity: Entity,
    /// Access keys, by id.
    #[serde(default)]
    pub keys: BTreeMap<String, AccessKey>,
}

/// An access key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessKey {
    /// What signs.
    pub secret: String,
    /// Whether it may be used.
    pub active: bool,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessKey").field("active", &self.active).finish_non_exhaustive()
    }
}

/// A policy that can be attached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Managed {
    /// Its name.
    pub name: String,
    /// `/`, or a path in the ARN.
    pub path: String,
    /// Unique, and never used again.
    pub id: String,
    /// Its ARN.
    pub arn: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Milliseconds since the Unix epoch.
    pub updated_ms: u64,
    /// Documents and when they were made, by number.
    pub versions: BTreeMap<u64, (Arc<Policy>, u64)>,
    /// The version in force.
    pub default: u64,
    /// Tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

impl Managed {
    /// The document in force.
    #[must_use]
    pub fn document(&self) -> Option<&Arc<Policy>> {
        self.versions.get(&self.default).map(|(document, _)| document)
    }
}

/// Everyone, and every policy. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    /// By name.
    pub roles: BTreeMap<String, Arc<Role>>,
    /// By name.
    pub users: BTreeMap<String, Arc<User>>,
    /// By ARN; AWS's own ones that this build knows are there as well.
    pub policies: BTreeMap<String, Arc<Managed>>,
}

/// The credentials of the account itself.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootKey {
    /// Access key id.
    pub access_key_id: String,
    /// What signs.
    pub secret_access_key: String,
}

impl std::fmt::Debug for RootKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootKey")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

/// Who has signed, what proves it, and what it may do.
#[derive(Clone)]
pub struct Signer {
    /// Who it is.
    pub principal: Principal,
    /// What signs.
    pub secret: String,
    /// Its policies.
    pub policies: Vec<Arc<Policy>>,
    /// The unique id, as `GetCallerIdentity` shows it.
    pub id: String,
    /// The user's name; empty for others.
    pub user: String,
    /// When its credentials were issued, if they are temporary: milliseconds since the Unix epoch.
    pub issued_ms: Option<u64>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("principal", &self.principal).finish_non_exhaustive()
    }
}

/// Why somebody is not taken for a signer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoSigner {
    /// There is no such key, or it is switched off.
    Unknown,
    /// The session is over.
    Expired,
}

impl Directory {
    /// The policies in force of a user or role.
    #[must_use]
    pub fn policies_of(&self, entity: &Entity) -> Vec<Arc<Policy>> {
        let attached = entity.attached.iter().filter_map(|arn| self.policies.get(arn)?.document());
        entity.inline.values().chain(attached).cloned().collect()
    }

    /// The role of an ARN.
    #[must_use]
    pub fn role_of(&self, arn: &str) -> Option<&Arc<Role>> {
        let name = arn.rsplit('/').next()?;
        self.roles.get(name).filter(|role| role.entity.arn == arn)
    }
}

/// The directory, and what changes it.
pub struct Directories {
    records: Arc<dyn Records>,
    clock: Arc<dyn Clock>,
    identity: Identity,
    current: ArcSwap<Directory>,
    /// Users by access key id.
    keys: ArcSwap<HashMap<String, String>>,
    root: RootKey,
    session_key: SessionKey,
    commit: Arc<Mutex<()>>,
    changed: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl std::fmt::Debug for Directories {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directories").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Directories {
    /// Reads the directory, and makes the account's own key when there is none.
    ///
    /// # Errors
    /// When storage fails or a record is damaged.
    pub async fn load(
        records: Arc<dyn Records>,
        clock: Arc<dyn Clock>,
        identity: Identity,
    ) -> Result<Arc<Self>, StoreError> {
        let mut directory = Directory { policies: managed::builtin(), ..Directory::default() };
        for (_, role) in read_all::<Role>(&*records, ROLE).await? {
            directory.roles.insert(role.entity.name.clone(), Arc::new(role));
        }
        for (_, user) in read_all::<User>(&*records, USER).await? {
            directory.users.insert(user.entity.name.clone(), Arc::new(user));
        }
        for (_, policy) in read_all::<Managed>(&*records, POLICY).await? {
            directory.policies.insert(policy.arn.clone(), Arc::new(policy));
        }
        let root = once(&*records, "iam/root", || RootKey {
            access_key_id: access_key_id("AKIA"),
            secret_access_key: secret(),
        });
        let root = root.await?;
        let session_key = once(&*records, "iam/session-key", SessionKey::generate).await?;
        let keys = ArcSwap::from_pointee(keys_of(&directory));
        let (current, commit) = (ArcSwap::from_pointee(directory), Arc::default());
        Ok(Arc::new(Self {
            records,
            clock,
            identity,
            current,
            keys,
            root,
            session_key,
            commit,
            changed: OnceLock::new(),
        }))
    }

    /// Everyone now.
    #[must_use]
    pub fn current(&self) -> Arc<Directory> {
        self.current.load_full()
    }

    /// Whose users these are.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Time.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.clock.unix_ms()
    }

    /// The account's own credentials.
    #[must_use]
    pub fn root(&self) -> &RootKey {
        &self.root
    }

    /// Changes the directory, and writes what has changed.
    ///
    /// # Errors
    /// What `change` says, or that storage failed; readers see nothing of it then.
    pub async fn edit<T, E: From<StoreError>>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Directory) -> Result<T, E>,
    ) -> Result<T, E> {
        let commit = Arc::clone(&self.commit).lock_owned().await;
        let before = self.current.load_full();
        let mut next = (*before).clone();
        let value = change(&mut next)?;
        let this = Arc::clone(self);
        let write = async move {
            this.write(ROLE, &before.roles, &next.roles).await?;
            this.write(USER, &before.users, &next.users).await?;
            this.write(POLICY, &before.policies, &next.policies).await?;
            this.keys.store(Arc::new(keys_of(&next)));
            this.current.store(Arc::new(next));
            if let Some(changed) = this.changed.get() {
                changed();
            }
            Ok(())
        };
        to_the_end(commit, write).await?;
        Ok(value)
    }

    /// Says what to do after every change. The first one counts.
    pub fn on_change(&self, changed: impl Fn() + Send + Sync + 'static) {
        let _ = self.changed.set(Box::new(changed));
    }

    async fn write<V: Serialize + Send + Sync>(
        &self,
        prefix: &str,
        before: &BTreeMap<String, Arc<V>>,
        after: &BTreeMap<String, Arc<V>>,
    ) -> Result<(), StoreError> {
        for (name, value) in after {
            if before.get(name).is_some_and(|known| Arc::ptr_eq(known, value)) {
                continue;
            }
            table::write(&*self.records, &format!("{prefix}{name}"), &**value).await?;
        }
        for name in before.keys().filter(|name| !after.contains_key(*name)) {
            self.records.delete(&format!("{prefix}{name}"), Expect::Any).await?;
        }
        Ok(())
    }

    /// Who signs with an access key, and a token when the credentials are temporary.
    ///
    /// # Errors
    /// [`NoSigner`] when nobody does.
    pub fn signer(&self, access_key: &str, token: Option<&str>) -> Result<Signer, NoSigner> {
        let account = self.identity.account.to_string();
        if let Some(token) = token {
            return self.session(access_key, token);
        }
        if access_key == self.root.access_key_id {
            return Ok(Signer {
                principal: Principal::Root { account: account.clone() },
                secret: self.root.secret_access_key.clone(),
                policies: Vec::new(),
                id: account,
                user: String::new(),
                issued_ms: None,
            });
        }
        let current = self.current.load();
        let keys = self.keys.load();
        let user = keys.get(access_key).and_then(|name| current.users.get(name));
        let user = user.ok_or(NoSigner::Unknown)?;
        let key = user.keys.get(access_key).filter(|key| key.active).ok_or(NoSigner::Unknown)?;
        let entity = &user.entity;
        Ok(Signer {
            principal: Principal::Identity { arn: entity.arn.clone(), role: None, account },
            secret: key.secret.clone(),
            policies: current.policies_of(entity),
            id: entity.id.clone(),
            user: entity.name.clone(),
            issued_ms: None,
        })
    }

    fn session(&self, access_key: &str, token: &str) -> Result<Signer, NoSigner> {
        let session = self.session_key.read(token).ok_or(NoSigner::Unknown)?;
        if session.access_key != access_key {
            return Err(NoSigner::Unknown);
        }
        if session.expires_ms <= self.clock.unix_ms() {
            return Err(NoSigner::Expired);
        }
        let current = self.current.load();
        // A role that was deleted and made anew is another one.
        let role = current.role_of(&session.role).filter(|role| role.entity.id == session.role_id);
        let role = role.ok_or(NoSigner::Unknown)?;
        Ok(Signer {
            principal: self.session_principal(role, &session.name),
            secret: self.session_key.secret(&session),
            policies: current.policies_of(&role.entity),
            id: format!("{}:{}", session.role_id, session.name),
            user: String::new(),
            issued_ms: Some(session.issued_ms),
        })
    }

    fn session_principal(&self, role: &Role, name: &str) -> Principal {
        let (account, role_name) = (&self.identity.account, &role.entity.name);
        Principal::Identity {
            arn: format!("arn:aws:sts::{account}:assumed-role/{role_name}/{name}"),
            role: Some(role.entity.arn.clone()),
            account: account.to_string(),
        }
    }

    /// Temporary credentials of a role: the session, its secret and its token.
    #[must_use]
    pub fn assume(&self, role: &Role, name: &str, seconds: u32) -> (Session, String, String) {
        let issued_ms = self.clock.unix_ms();
        let session = Session {
            access_key: access_key_id("ASIA"),
            role: role.entity.arn.clone(),
            role_id: role.entity.id.clone(),
            name: name.to_owned(),
            issued_ms,
            expires_ms: issued_ms + u64::from(seconds) * 1_000,
        };
        let (secret, token) = (self.session_key.secret(&session), self.session_key.write(&session));
        (session, secret, token)
    }

    /// What the instances of this function may do with this execution role, in a session with the function's name.
    #[must_use]
    pub fn grants(&self, role: &str, function: &FunctionName) -> Grants {
        let current = self.current.load();
        match current.role_of(role) {
            Some(role) => {
                let name = function.as_str();
                Grants::new(grants::Session {
                    principal: self.session_principal(role, name),
                    id: format!("{}:{name}", role.entity.id),
                    policies: current.policies_of(&role.entity),
                    region: Arc::clone(&self.identity.region),
                })
            }
            None => Grants::default(),
        }
    }
}

const ROLE: &str = "iam/role/";
const USER: &str = "iam/user/";
const POLICY: &str = "iam/policy/";

fn keys_of(directory: &Directory) -> HashMap<String, String> {
    let users = directory.users.values();
    users
        .flat_map(|user| user.keys.keys().map(|key| (key.clone(), user.entity.name.clone())))
        .collect()
}

/// A value that is made once and then kept.
async fn once<T: Serialize + DeserializeOwned + Sync>(
    records: &dyn Records,
    key: &str,
    make: impl FnOnce() -> T,
) -> Result<T, StoreError> {
    if let Some(stored) = records.get(key).await? {
        return table::parse(key, &stored.value);
    }
    let value = make();
    table::write(records, key, &value).await?;
    Ok(value)
}

/// A new access key id, or the id of an entity: a prefix that tells its kind, and 16 characters.
#[must_use]
pub fn access_key_id(prefix: &str) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let random = crate::session::random::<16>();
    let letters = random.iter().filter_map(|byte| ALPHABET.get(usize::from(byte & 31)));
    prefix.chars().chain(letters.map(|byte| char::from(*byte))).collect()
}

/// A new secret: 40 characters.
#[must_use]
pub fn secret() -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(crate::session::random::<30>())
}
