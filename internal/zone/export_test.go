package zone

// Image is the image of a zone, without the checksum that a compiled zone has.
func Image(z *Zone) []byte { return z.image }

// Open makes a zone of an image that need not be as it was made.
func Open(b []byte) (*Zone, error) { return open(b) }

// Hash is one NSEC3 hash without additional iterations.
func Hash(name []byte, salt string) [20]byte { return (&nsec3Params{salt: salt}).hash(name) }
