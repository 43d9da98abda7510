//! `wambda keys`: users and their access keys, by the server's IAM surface.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use serde_json::json;

use crate::client::{self, Client, escape};
use crate::show::out;

/// IAM's API version.
const VERSION: &str = "2010-05-08";
const ADMINISTRATOR: &str = "arn:aws:iam::aws:policy/AdministratorAccess";

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Create an access key, and its user when there is none; the secret is shown once
    Create {
        /// The user
        user: String,
        /// Let the user do everything
        #[arg(long, conflicts_with = "policy")]
        admin: bool,
        /// Let the user do what this policy document says
        #[arg(long)]
        policy: Option<PathBuf>,
    },
    /// List the access keys of a user
    List {
        /// The user
        user: String,
    },
    /// Delete an access key
    Delete {
        /// The user
        user: String,
        /// The key's id
        key: String,
    },
    /// Switch an access key off
    Disable {
        /// The user
        user: String,
        /// The key's id
        key: String,
    },
    /// Switch an access key on again
    Enable {
        /// The user
        user: String,
        /// The key's id
        key: String,
    },
}

pub(crate) fn run(client: &Client, command: KeysCommand, json: bool) -> Result<()> {
    match command {
        KeysCommand::Create { user, admin, policy } => create(client, &user, admin, policy, json),
        KeysCommand::List { user } => list(client, &user, json),
        KeysCommand::Delete { user, key } => {
            let key = [("UserName", user.as_str()), ("AccessKeyId", &key)];
            call(client, "DeleteAccessKey", &key).map(drop)
        }
        KeysCommand::Disable { user, key } => switch(client, &user, &key, "Inactive"),
        KeysCommand::Enable { user, key } => switch(client, &user, &key, "Active"),
    }
}

fn switch(client: &Client, user: &str, key: &str, status: &str) -> Result<()> {
    let what = [("UserName", user), ("AccessKeyId", key), ("Status", status)];
    call(client, "UpdateAccessKey", &what).map(drop)
}

fn create(
    client: &Client,
    user: &str,
    admin: bool,
    policy: Option<PathBuf>,
    json: bool,
) -> Result<()> {
    let document = match &policy {
        Some(path) => {
            let read = std::fs::read_to_string(path);
            Some(read.with_context(|| format!("cannot read {}", path.display()))?)
        }
        None => None,
    };
    if call(client, "GetUser", &[("UserName", user)]).is_err() {
        call(client, "CreateUser", &[("UserName", user)])?;
    }
    if admin {
        call(client, "AttachUserPolicy", &[("UserName", user), ("PolicyArn", ADMINISTRATOR)])?;
    }
    if let Some(document) = &document {
        let what =
            [("UserName", user), ("PolicyName", "wambda-keys"), ("PolicyDocument", document)];
        call(client, "PutUserPolicy", &what)?;
    }
    let made = call(client, "CreateAccessKey", &[("UserName", user)])?;
    let part = |name: &str| parts(&made, name).into_iter().next().unwrap_or_default();
    let (id, secret) = (part("AccessKeyId"), part("SecretAccessKey"));
    if json {
        let key = json!({"user": user, "access_key_id": id, "secret_access_key": secret});
        return out(&key).map(drop);
    }
    out(&format!("export AWS_ACCESS_KEY_ID={id}\nexport AWS_SECRET_ACCESS_KEY={secret}"))?;
    if !admin && document.is_none() {
        eprintln!("{user} may do nothing yet: use --admin, --policy FILE, or the IAM API");
    }
    Ok(())
}

fn list(client: &Client, user: &str, json: bool) -> Result<()> {
    let answer = call(client, "ListAccessKeys", &[("UserName", user)])?;
    let (ids, states) = (parts(&answer, "AccessKeyId"), parts(&answer, "Status"));
    let keys = ids.iter().zip(&states);
    if json {
        let keys: Vec<_> = keys.map(|(id, state)| json!({"id": id, "status": state})).collect();
        return out(&json!({"user": user, "keys": keys})).map(drop);
    }
    for (id, state) in keys {
        out(&format!("{id}  {state}"))?;
    }
    Ok(())
}

/// Calls IAM. Returns the XML of a good answer.
fn call(client: &Client, action: &str, parameters: &[(&str, &str)]) -> Result<String> {
    let mut form = format!("Action={action}&Version={VERSION}");
    for (name, value) in parameters {
        form.push_str(&format!("&{name}={}", escape(value)));
    }
    let mut response = client.form(&form)?;
    let text = String::from_utf8_lossy(&client::bytes(&mut response)?).into_owned();
    if !response.status().is_success() {
        let said = parts(&text, "Message").into_iter().next();
        bail!("{action}: {}", said.unwrap_or(text));
    }
    Ok(text)
}

/// The texts of every element of that name. IAM's ids and secrets need no unescaping.
fn parts(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let found = xml.split(&open).skip(1).filter_map(|rest| rest.split(&close).next());
    found.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn elements_are_found() {
        let xml = "<a><Id>1</Id></a><a><Id>2</Id></a><Other>x</Other>";
        assert_eq!(super::parts(xml, "Id"), ["1", "2"]);
        assert!(super::parts(xml, "None").is_empty());
    }
}
