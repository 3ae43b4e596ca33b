//! Archives into restic repositories and back, with stock restic and GNU tar as judges.

#[cfg(test)]
mod backups;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod reading;
#[cfg(test)]
mod unchanged;
