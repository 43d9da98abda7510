//! What a request says about its signature, and whether that is true.

use std::fmt;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use percent_encoding::percent_decode_str;
use ring::hmac;

use crate::canonical::Request;
use crate::key::{KeyCache, string_to_sign};
use crate::{AuthError, EXPIRES_MAX, SKEW_SECONDS};

pub(crate) const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What a signature is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// `YYYYMMDD`
    pub date: String,
    /// For example `us-east-1`.
    pub region: String,
    /// For example `lambda`.
    pub service: String,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/aws4_request", self.date, self.region, self.service)
    }
}

/// What a request says about its signature. Nothing of it is proved before [`Claim::verify`].
#[derive(Debug, Clone)]
pub struct Claim {
    /// The signer's access key id.
    pub access_key: String,
    /// What the signature is good for.
    pub scope: Scope,
    /// The session token, of temporary credentials.
    pub token: Option<String>,
    time: String,
    signed: Vec<String>,
    signature: Vec<u8>,
    /// Seconds that a presigned request is good for.
    expires: Option<i64>,
}

impl Claim {
    /// Reads the `Authorization` header, or the parameters of a presigned request.
    ///
    /// # Errors
    /// [`AuthError::Missing`] when there is neither, [`AuthError::Incomplete`] for a wrong form.
    pub fn read(request: &Request<'_>) -> Result<Self, AuthError> {
        let mut authorizations =
            request.headers.iter().filter(|(name, _)| *name == "authorization");
        let Some((_, authorization)) = authorizations.next() else {
            return Self::presigned(request);
        };
        if authorizations.next().is_some() {
            return Err(AuthError::Incomplete(
                "There is more than one Authorization header".into(),
            ));
        }
        let Some(fields) = authorization.strip_prefix(ALGORITHM) else {
            let what = format!("Unsupported AWS 'algorithm': expected {ALGORITHM}");
            return Err(AuthError::Incomplete(what));
        };
        let field = |name: &str| {
            fields.split(',').find_map(|f| f.trim().strip_prefix(name)?.strip_prefix('='))
        };
        let header = |name: &str| {
            request.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.trim())
        };
        let mut missing = String::new();
        let mut wanted = |name: &str| {
            if field(name).is_none() {
                missing.push_str(&format!("Authorization header requires '{name}' parameter. "));
            }
            field(name).unwrap_or_default()
        };
        let (credential, signature) = (wanted("Credential"), wanted("Signature"));
        let signed = wanted("SignedHeaders");
        let time =
            header("x-amz-date").map(str::to_owned).or_else(|| header("date").and_then(http));
        if time.is_none() {
            missing.push_str(
                "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. ",
            );
        }
        if !missing.is_empty() {
            return Err(AuthError::Incomplete(missing.trim_end().to_owned()));
        }
        let token = header("x-amz-security-token").map(str::to_owned);
        Self::new(credential, signed, signature, time.unwrap_or_default(), token, None)
    }

    fn presigned(request: &Request<'_>) -> Result<Self, AuthError> {
        let parameter = |name: &str| {
            let mut found = request.query.split('&').filter_map(|pair| {
                let (key, value) = pair.split_once('=')?;
                (key == name).then(|| percent_decode_str(value).decode_utf8_lossy().into_owned())
            });
            found.next()
        };
        let Some(algorithm) = parameter("X-Amz-Algorithm") else { return Err(AuthError::Missing) };
        if algorithm != ALGORITHM {
            return Err(AuthError::Incomplete(format!("X-Amz-Algorithm must be {ALGORITHM}")));
        }
        let wanted = |name: &str| {
            let missing = || AuthError::Incomplete(format!("Query parameter '{name}' is required"));
            parameter(name).ok_or_else(missing)
        };
        let expires = wanted("X-Amz-Expires")?.parse().ok();
        let expires = expires.filter(|seconds| (1..=EXPIRES_MAX).contains(seconds));
        let expires = expires.ok_or_else(|| {
            AuthError::Incomplete(format!("X-Amz-Expires must be 1 to {EXPIRES_MAX} seconds"))
        })?;
        Self::new(
            &wanted("X-Amz-Credential")?,
            &wanted("X-Amz-SignedHeaders")?,
            &wanted("X-Amz-Signature")?,
            wanted("X-Amz-Date")?,
            parameter("X-Amz-Security-Token"),
            Some(expires),
        )
    }

    fn new(
        credential: &str,
        signed: &str,
        signature: &str,
        time: String,
        token: Option<String>,
        expires: Option<i64>,
    ) -> Result<Self, AuthError> {
        let parts: Vec<&str> = credential.split('/').collect();
        let [access_key, date, region, service, terminator] = parts.as_slice() else {
            let what = format!(
                "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '{credential}'"
            );
            return Err(AuthError::Incomplete(what));
        };
        if *terminator != "aws4_request" {
            let what = format!(
                "Credential should be scoped with a valid terminator: 'aws4_request', not '{terminator}'."
            );
            return Err(AuthError::Invalid(what));
        }
        let scope = Scope {
            date: (*date).to_owned(),
            region: (*region).to_owned(),
            service: (*service).to_owned(),
        };
        if !time.starts_with(&scope.date) {
            let day = time.get(..8).unwrap_or(&time);
            let what = format!(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{date}' != '{day}', from '{time}'."
            );
            return Err(AuthError::Invalid(what));
        }
        let signed: Vec<String> = signed.split(';').map(str::to_ascii_lowercase).collect();
        let signature = hex::decode(signature).map_err(|_| AuthError::mismatch())?;
        let access_key = (*access_key).to_owned();
        Ok(Self { access_key, scope, token, time, signed, signature, expires })
    }

    /// Proves the claim with the signer's secret. `regions` and `service` are what a scope may name.
    ///
    /// # Errors
    /// [`AuthError::Invalid`] with AWS's text.
    pub fn verify(
        &self,
        request: &Request<'_>,
        secret: &str,
        (regions, service): (&[&str], &str),
        now_s: i64,
        keys: &KeyCache,
    ) -> Result<(), AuthError> {
        self.check((regions, service), now_s)?;
        self.check_headers(request)?;
        let mut signed: Vec<&str> = self.signed.iter().map(String::as_str).collect();
        signed.sort_unstable();
        let text = string_to_sign(&self.time, &self.scope, &request.canonical(&signed));
        let key = keys.get(&self.access_key, secret, &self.scope);
        // In constant time.
        hmac::verify(&key, text.as_bytes(), &self.signature).map_err(|_| AuthError::mismatch())
    }

    /// Checks scope and time alone: what can be said before the body is there.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub fn check(&self, (regions, service): (&[&str], &str), now_s: i64) -> Result<(), AuthError> {
        self.check_scope(regions, service)?;
        self.check_time(now_s)
    }

    fn check_scope(&self, regions: &[&str], service: &str) -> Result<(), AuthError> {
        let Scope { region: its_region, service: its_service, .. } = &self.scope;
        let mut wrong = String::new();
        if !regions.contains(&its_region.as_str()) {
            wrong = format!("Credential should be scoped to a valid region, not '{its_region}'. ");
        }
        if its_service != service {
            wrong += &format!("Credential should be scoped to correct service: '{service}'. ");
        }
        if wrong.is_empty() { Ok(()) } else { Err(AuthError::Invalid(wrong)) }
    }

    fn check_time(&self, now_s: i64) -> Result<(), AuthError> {
        let signed_at = seconds(&self.time).ok_or_else(|| {
            let what = format!("Date must be in ISO-8601 'basic format'. Got '{}'.", self.time);
            AuthError::Incomplete(what)
        })?;
        let late = self.expires.unwrap_or(SKEW_SECONDS);
        let time = &self.time;
        if signed_at + late < now_s {
            let (now, limit, minutes) = (basic(now_s), basic(now_s - late), late / 60);
            let what = format!(
                "Signature expired: {time} is now earlier than {limit} ({now} - {minutes} min.)"
            );
            return Err(AuthError::Invalid(what));
        }
        if signed_at > now_s + SKEW_SECONDS {
            let (now, limit) = (basic(now_s), basic(now_s + SKEW_SECONDS));
            let minutes = SKEW_SECONDS / 60;
            let what = format!(
                "Signature not yet current: {time} is still later than {limit} ({now} + {minutes} min.)"
            );
            return Err(AuthError::Invalid(what));
        }
        Ok(())
    }

    /// What changes the meaning of a request must be signed.
    fn check_headers(&self, request: &Request<'_>) -> Result<(), AuthError> {
        let signs = |name: &str| self.signed.iter().any(|signed| signed == name);
        if !signs("host") {
            let what = "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.";
            return Err(AuthError::Invalid(what.to_owned()));
        }
        let unsigned = request.headers.iter().find(|(name, _)| {
            let matters = name.starts_with("x-amz-") && *name != "x-amz-content-sha256";
            matters && !signs(name)
        });
        if let Some((name, _)) = unsigned {
            let what =
                format!("There were headers present in the request which were not signed: {name}");
            return Err(AuthError::Invalid(what));
        }
        let absent = |signed: &&String| !request.headers.iter().any(|(name, _)| name == signed);
        match self.signed.iter().find(absent) {
            Some(name) => {
                let what = format!("The signed header '{name}' is not in the request.");
                Err(AuthError::Invalid(what))
            }
            None => Ok(()),
        }
    }
}

/// Seconds since the epoch as `YYYYMMDDTHHMMSSZ`.
pub(crate) fn basic(seconds: i64) -> String {
    let at = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn seconds(time: &str) -> Option<i64> {
    let rest = time.strip_suffix('Z')?;
    let (date, clock) = rest.split_once('T').filter(|(d, c)| d.len() == 8 && c.len() == 6)?;
    let number = |text: &str, at: usize| {
        let digits = text.get(at..at + 2)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<i8>().ok())?
    };
    let year = i16::from(number(date, 0)?) * 100 + i16::from(number(date, 2)?);
    let (month, day) = (number(date, 4)?, number(date, 6)?);
    let (hour, minute, second) = (number(clock, 0)?, number(clock, 2)?, number(clock, 4)?);
    let at = DateTime::new(year, month, day, hour, minute, second, 0).ok()?;
    Some(at.to_zoned(TimeZone::UTC).ok()?.timestamp().as_second())
}

/// An HTTP date in the basic format.
fn http(date: &str) -> Option<String> {
    let at = jiff::fmt::rfc2822::parse(date).ok()?;
    Some(basic(at.timestamp().as_second()))
}
