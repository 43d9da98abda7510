//! Who calls, and whether they may. With `--auth off` everyone is the account itself; with `--auth
//! keys` every request but function URLs' and the system's is signed (Signature Version 4).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::Extensions;
use http::header::{AUTHORIZATION, HeaderValue, USER_AGENT};
use http::request::Parts;
use wambda_control::directory::{NoSigner, Signer};
use wambda_control::{Directories, Identity};
use wambda_model::clock;
use wambda_model::limits::{INLINE_WORK_BYTES_MAX, POLICY_TEXT_BYTES_MAX};
use wambda_policy::facts::Asking;
use wambda_policy::{Decision, Policy, Principal, Request as Question, Value, decide};
use wambda_sigv4::{AuthError, Claim, EMPTY_SHA256, KeyCache, Request as Signed, UNSIGNED};

use crate::body::{self, Rest, Whole};
use crate::rates::subscriber;
use crate::within::{self, Within};
use crate::{Api, ApiError, Surface};

/// Authentication, as the server was started.
#[derive(Debug)]
pub struct Auth {
    /// Users and roles.
    pub directories: Arc<Directories>,
    required: bool,
    keys: KeyCache,
}

impl Auth {
    /// Authentication by these users and roles.
    #[must_use]
    pub fn new(directories: Arc<Directories>, required: bool) -> Self {
        Self { directories, required, keys: KeyCache::default() }
    }

    /// Whether it has to be proved, or is known, who sends a request with these extensions. Functions never do as they
    /// like, whatever the server was started with.
    #[must_use]
    pub fn asks(&self, extensions: &Extensions) -> bool {
        self.required || extensions.get::<Within>().is_some()
    }
}

/// A caller.
#[derive(Debug, Clone)]
pub struct Who {
    /// Who it is.
    pub principal: Principal,
    /// Its policies.
    pub policies: Vec<Arc<Policy>>,
    /// Unique id, for `GetCallerIdentity`.
    pub id: String,
    /// The user's name; empty for others.
    pub user: String,
    /// Where it calls from; an IPv4 address as such on every listener.
    pub source_ip: IpAddr,
    /// Whether it may do everything, and nobody asks.
    pub trusted: bool,
    /// The server that it calls, as conditions ask for it.
    pub home: Option<Identity>,
    /// What it says it calls with.
    pub user_agent: Option<HeaderValue>,
    /// When its credentials were issued, if they are temporary: milliseconds since the Unix epoch.
    pub issued_ms: Option<u64>,
}

impl Who {
    /// Somebody who has not signed.
    #[must_use]
    pub fn anonymous(peer: SocketAddr) -> Self {
        Self {
            principal: Principal::Anonymous,
            policies: Vec::new(),
            id: String::new(),
            user: String::new(),
            source_ip: peer.ip().to_canonical(),
            trusted: false,
            home: None,
            user_agent: None,
            issued_ms: None,
        }
    }

    /// Who a request that need not be signed says it is from, for what IAM and STS tell about callers:
    /// it may do everything either way.
    fn presumed(api: &Api, surface: Surface, parts: &Parts, peer: SocketAddr) -> Self {
        let root = Self::root(api, peer);
        if !query(surface) {
            return root;
        }
        let token = parts.headers.get("x-amz-security-token").and_then(|token| token.to_str().ok());
        match access_key(parts).map(|key| api.auth.directories.signer(key, token)) {
            Some(Ok(signer)) => Self { trusted: true, ..Self::signer(signer, peer) },
            _ => root,
        }
    }

    /// The account itself.
    fn root(api: &Api, peer: SocketAddr) -> Self {
        let account = api.identity.account.to_string();
        Self {
            principal: Principal::Root { account: account.clone() },
            id: account,
            trusted: true,
            ..Self::anonymous(peer)
        }
    }

    fn signer(signer: Signer, peer: SocketAddr) -> Self {
        let Signer { principal, policies, id, user, issued_ms, .. } = signer;
        Self { principal, policies, id, user, issued_ms, ..Self::anonymous(peer) }
    }

    /// The same, with what conditions may ask about the request.
    fn calling(self, api: &Api, user_agent: Option<&HeaderValue>) -> Self {
        Self { home: Some(api.identity.clone()), user_agent: user_agent.cloned(), ..self }
    }

    /// What uploaders are told apart by: the identity, whatever its sessions are called, or else the address.
    #[must_use]
    pub fn uploader(&self) -> String {
        match &self.principal {
            Principal::Identity { arn, .. } if !self.trusted => match arn.rsplit_once('/') {
                Some((role, _session)) if arn.contains(":assumed-role/") => role.to_owned(),
                _ => arn.clone(),
            },
            _ => subscriber(self.source_ip).to_string(),
        }
    }

    /// The ARN, as AWS's messages and a function's context show it.
    #[must_use]
    pub fn arn(&self) -> String {
        match &self.principal {
            Principal::Anonymous => "anonymous".to_owned(),
            Principal::Root { account } => format!("arn:aws:iam::{account}:root"),
            Principal::Identity { arn, .. } => arn.clone(),
            Principal::Service(name) => name.clone(),
        }
    }
}

/// The access key that the `Authorization` header claims to be signed by.
pub(crate) fn access_key(parts: &Parts) -> Option<&str> {
    let text = parts.headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (_, rest) = text.split_once("Credential=")?;
    Some(rest.split_once('/')?.0)
}

/// The caller of a signed request, whose body has this [`hash`]; everyone is the account itself
/// when nobody needs to sign.
///
/// # Errors
/// AWS's own, by the surface.
pub fn authenticate(
    api: &Api,
    surface: Surface,
    parts: &Parts,
    hash: &str,
    peer: SocketAddr,
) -> Result<Who, ApiError> {
    if !api.auth.asks(&parts.extensions) {
        return Ok(Who::presumed(api, surface, parts, peer));
    }
    verify(api, surface, parts, hash, peer)
}

/// Whether the sender of a request has to have signed its body.
fn signs(api: &Api, parts: &Parts) -> bool {
    let within = parts.extensions.get::<Within>();
    within.map_or(api.auth.required, |within| within.signs_as_another(parts))
}

/// The SHA-256 of a body in hexadecimal digits, when a signature is to be verified by it. On the
/// work threads only.
pub(crate) fn hash(api: &Api, parts: &Parts, body: &[u8]) -> String {
    match signs(api, parts) && !body.is_empty() {
        true => wambda_sigv4::sha256_hex(body),
        false => EMPTY_SHA256.to_owned(),
    }
}

/// The same from a thread that answers, which leaves a large body to the work threads.
///
/// # Errors
/// 500 when hashing panics.
pub(crate) async fn hash_away(
    api: &Api,
    parts: &Parts,
    body: &Bytes,
    peer: SocketAddr,
) -> Result<String, ApiError> {
    if body.len() <= INLINE_WORK_BYTES_MAX || !signs(api, parts) {
        return Ok(hash(api, parts, body));
    }
    let body = body.clone();
    api.offload.work(peer, body.len(), move || wambda_sigv4::sha256_hex(&body)).await
}

/// Reads a body, and finds out who sent it. Strangers are refused before much of it is read.
///
/// # Errors
/// As [`authenticate`] and [`body::read`].
pub async fn receive(
    api: &Api,
    surface: Surface,
    parts: &Parts,
    (incoming, limit): (Rest, u64),
    peer: SocketAddr,
) -> Result<(Whole, Who), ApiError> {
    expect(api, surface, parts)?;
    let whole = body::read(&api.room, peer, incoming, limit).await?;
    let hash = hash_away(api, parts, &whole.bytes, peer).await?;
    let who = authenticate(api, surface, parts, &hash, peer)?;
    Ok((whole, who))
}

/// The caller of a request that must be signed, whatever the server was started with.
///
/// # Errors
/// AWS's own, by the surface.
pub fn verify(
    api: &Api,
    surface: Surface,
    parts: &Parts,
    hash: &str,
    peer: SocketAddr,
) -> Result<Who, ApiError> {
    if let Some(within) = parts.extensions.get::<Within>()
        && !within.signs_as_another(parts)
    {
        let who = within.who(&api.auth.directories, peer);
        let who = who.map_err(|error| refused(surface, &error))?;
        return Ok(who.calling(api, parts.headers.get(USER_AGENT)));
    }
    let headers = headers(surface, parts)?;
    let declared = parts.headers.get("x-amz-content-sha256").map(HeaderValue::as_bytes);
    if declared.is_some_and(|said| said != hash.as_bytes()) {
        let why = match declared == Some(UNSIGNED.as_bytes()) {
            true => AuthError::Invalid(format!("{UNSIGNED} is not accepted here")),
            false => AuthError::mismatch(),
        };
        return Err(refused(surface, &why));
    }
    let request = signed(parts, &headers, hash);
    let (claim, signer) = claimed(api, surface, &request)?;
    let regions = regions(api, surface);
    let scope = (&regions[..], surface.signing_name());
    let verified = claim.verify(&request, &signer.secret, scope, now_s(), &api.auth.keys);
    verified.map_err(|error| refused(surface, &error))?;
    Ok(Who::signer(signer, peer).calling(api, parts.headers.get(USER_AGENT)))
}

/// What lets a caller go on receiving: asked again and again while a response lasts, so that a key,
/// a user or a policy that is gone ends it.
pub(crate) struct Lasting {
    api: Arc<Api>,
    surface: Surface,
    /// None when nobody is asked.
    by: Option<By>,
    peer: SocketAddr,
    user_agent: Option<HeaderValue>,
    action: &'static str,
    resource: String,
}

/// By what a caller is known.
enum By {
    Function(Within),
    Key { access_key: String, token: Option<String> },
}

impl Lasting {
    /// The right of a request that was verified to this action on this resource.
    pub(crate) fn new(
        (api, surface): (&Arc<Api>, Surface),
        parts: &Parts,
        peer: SocketAddr,
        (action, resource): (&'static str, String),
    ) -> Result<Self, ApiError> {
        let by = match parts.extensions.get::<Within>() {
            Some(within) if !within.signs_as_another(parts) => Some(By::Function(within.clone())),
            None if !api.auth.required => None,
            _ => {
                let headers = headers(surface, parts)?;
                let claim = Claim::read(&signed(parts, &headers, EMPTY_SHA256));
                let claim = claim.map_err(|error| refused(surface, &error))?;
                Some(By::Key { access_key: claim.access_key, token: claim.token })
            }
        };
        let user_agent = parts.headers.get(USER_AGENT).cloned();
        Ok(Self { api: Arc::clone(api), surface, by, peer, user_agent, action, resource })
    }

    /// Whether the caller still may.
    pub(crate) fn holds(&self) -> bool {
        let directories = &self.api.auth.directories;
        let who = match &self.by {
            None => return true,
            Some(By::Function(within)) => within.who(directories, self.peer).ok(),
            Some(By::Key { access_key, token }) => {
                let signer = directories.signer(access_key, token.as_deref()).ok();
                signer.map(|signer| Who::signer(signer, self.peer))
            }
        };
        who.is_some_and(|who| {
            let who = who.calling(&self.api, self.user_agent.as_ref());
            authorize(self.surface, &who, self.action, &self.resource, None).is_ok()
        })
    }
}

/// Bodies below this are read before anybody is asked: they come with their head.
const LARGE_BYTES: u64 = INLINE_WORK_BYTES_MAX as u64;

/// Before a large body is read: somebody who is known claims to have signed it, and in time. Strangers
/// cannot make the server hold and hash bodies.
///
/// # Errors
/// As [`authenticate`].
pub fn expect(api: &Api, surface: Surface, parts: &Parts) -> Result<(), ApiError> {
    let length = parts.headers.get(http::header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let has_body = length.is_some() || parts.headers.contains_key("transfer-encoding");
    if !signs(api, parts) || !has_body || length.is_some_and(|length| length < LARGE_BYTES) {
        return Ok(());
    }
    let headers = headers(surface, parts)?;
    let (claim, _) = claimed(api, surface, &signed(parts, &headers, EMPTY_SHA256))?;
    let regions = regions(api, surface);
    let checked = claim.check((&regions, surface.signing_name()), now_s());
    checked.map_err(|error| refused(surface, &error))
}

fn headers(surface: Surface, parts: &Parts) -> Result<Vec<(&str, &str)>, ApiError> {
    let headers: Option<Vec<(&str, &str)>> = parts
        .headers
        .iter()
        .map(|(name, value)| Some((name.as_str(), std::str::from_utf8(value.as_bytes()).ok()?)))
        .collect();
    headers.ok_or_else(|| {
        refused(surface, &AuthError::Incomplete("a header is not valid UTF-8".to_owned()))
    })
}

fn signed<'a>(parts: &'a Parts, headers: &'a [(&'a str, &'a str)], hash: &'a str) -> Signed<'a> {
    Signed {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or_default(),
        headers,
        body_sha256: hash,
        encodes_twice: true,
    }
}

fn claimed(api: &Api, surface: Surface, request: &Signed<'_>) -> Result<(Claim, Signer), ApiError> {
    let claim = Claim::read(request).map_err(|error| refused(surface, &error))?;
    let signer = api.auth.directories.signer(&claim.access_key, claim.token.as_deref());
    let signer = signer.map_err(|error| unknown(surface, error))?;
    Ok((claim, signer))
}

/// IAM and the old STS endpoint are global, and signed for the first region.
fn regions(api: &Api, surface: Surface) -> [&str; 2] {
    let own = &*api.identity.region;
    [own, if query(surface) { "us-east-1" } else { own }]
}

fn now_s() -> i64 {
    i64::try_from(clock::unix_ms() / 1_000).unwrap_or(i64::MAX)
}

fn query(surface: Surface) -> bool {
    matches!(surface, Surface::Iam | Surface::Sts)
}

fn refused(surface: Surface, error: &AuthError) -> ApiError {
    let (status, code) = match (error, query(surface)) {
        (AuthError::Missing, true) => (403, "MissingAuthenticationToken"),
        (AuthError::Missing, false) => (403, "MissingAuthenticationTokenException"),
        (AuthError::Incomplete(_), true) => (400, "IncompleteSignature"),
        (AuthError::Incomplete(_), false) => (400, "IncompleteSignatureException"),
        (AuthError::Invalid(_), true) => (403, "SignatureDoesNotMatch"),
        (AuthError::Invalid(_), false) => (403, "InvalidSignatureException"),
    };
    ApiError::aws(status, code, error.to_string())
}

fn unknown(surface: Surface, error: NoSigner) -> ApiError {
    let (code, message) = match (error, query(surface)) {
        (NoSigner::Unknown, true) => {
            ("InvalidClientTokenId", "The security token included in the request is invalid.")
        }
        (NoSigner::Unknown, false) => (
            "UnrecognizedClientException",
            "The security token included in the request is invalid.",
        ),
        (NoSigner::Expired, true) => {
            ("ExpiredToken", "The security token included in the request is expired")
        }
        (NoSigner::Expired, false) => {
            ("ExpiredTokenException", "The security token included in the request is expired")
        }
    };
    ApiError::aws(403, code, message)
}

/// Whether `who` may do `action` to `resource`, whose own policy is `policy`.
///
/// # Errors
/// AWS's `AccessDenied`, with its text.
pub fn authorize(
    surface: Surface,
    who: &Who,
    action: &str,
    resource: &str,
    policy: Option<&Policy>,
) -> Result<(), ApiError> {
    authorize_with(surface, who, action, resource, (policy, Vec::new()))
}

/// As [`authorize`], with facts for conditions besides those that are always there.
///
/// # Errors
/// As [`authorize`].
pub fn authorize_with(
    surface: Surface,
    who: &Who,
    action: &str,
    resource: &str,
    (policy, facts): (Option<&Policy>, Vec<(String, Value)>),
) -> Result<(), ApiError> {
    if who.trusted {
        return Ok(());
    }
    let decision = judge(who, action, resource, policy, facts);
    if decision == Decision::Allow {
        return Ok(());
    }
    let because = match decision {
        Decision::ExplicitDeny => "with an explicit deny in a policy".to_owned(),
        _ => format!("because no identity-based policy allows the {action} action"),
    };
    let who = who.arn();
    let message = format!(
        "User: {who} is not authorized to perform: {action} on resource: {resource} {because}"
    );
    let code = if query(surface) { "AccessDenied" } else { "AccessDeniedException" };
    Err(ApiError::aws(403, code, message))
}

/// What conditions may ask about a caller.
pub(crate) fn facts_of(who: &Who) -> Vec<(String, Value)> {
    let (region, account) =
        who.home.as_ref().map_or(("", ""), |home| (&*home.region, &*home.account));
    let now_s = clock::unix_ms() / 1_000;
    let asking = Asking {
        principal: &who.principal,
        id: &who.id,
        user: &who.user,
        region,
        account,
        issued_s: who.issued_ms.map(|ms| ms / 1_000),
    };
    let mut facts = asking.facts(now_s);
    // Functions call from nowhere.
    if !within::is_within(who.source_ip) {
        facts.push(fact("aws:SourceIp", &who.source_ip.to_string()));
    }
    let agent = who.user_agent.as_ref().and_then(|agent| agent.to_str().ok());
    if let Some(agent) = agent.filter(|agent| agent.len() <= POLICY_TEXT_BYTES_MAX) {
        facts.push(fact("aws:UserAgent", agent));
    }
    facts
}

/// A fact for conditions.
pub(crate) fn fact(key: &str, text: &str) -> (String, Value) {
    (key.to_owned(), Value::Text(text.to_owned()))
}

/// The decision about one action, with facts for conditions besides those that are always there.
#[must_use]
pub fn judge(
    who: &Who,
    action: &str,
    resource: &str,
    policy: Option<&Policy>,
    mut context: Vec<(String, Value)>,
) -> Decision {
    if who.trusted {
        return Decision::Allow;
    }
    // The account's own key may do everything that no resource denies; an engine need not be asked.
    if matches!(who.principal, Principal::Root { .. }) && policy.is_none() {
        return Decision::Allow;
    }
    let mut policies = who.policies.iter().map(|policy| &**policy).chain(policy);
    if policies.any(Policy::has_conditions) {
        context.extend(facts_of(who));
    }
    let question = Question {
        principal: who.principal.clone(),
        action: action.to_owned(),
        resource: resource.to_owned(),
        context,
    };
    let identity: Vec<&Policy> = who.policies.iter().map(|policy| &**policy).collect();
    decide(&question, &identity, policy)
}
