//! The directory layout on real file systems: what is written, what a crash leaves, what is done with
//! what others have changed.

#[cfg(test)]
mod crash;
#[cfg(test)]
mod foreign;
#[cfg(test)]
mod full_disk;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod layout;
#[cfg(test)]
mod listing;
#[cfg(test)]
mod repository;
#[cfg(test)]
mod tampering;
#[cfg(test)]
mod writing;
