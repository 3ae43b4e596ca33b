//! Storages of repositories with real servers: sshd, an S3 server, a server of restic's REST protocol,
//! and small file systems of our own. They need root and what `scripts/setup.sh` installs.

#[cfg(test)]
mod contract;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod init;
#[cfg(test)]
mod rest;
#[cfg(test)]
mod restic;
#[cfg(test)]
mod s3;
#[cfg(test)]
mod sftp;
