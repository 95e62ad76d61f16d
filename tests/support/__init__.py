"""What tests share: a real S3 server, files of a job."""
