// Package hosts kills and stops distribution hosts that publish in one bucket of a real S3 server.
package hosts
