package zone

// Newer reports whether serial a is above b (RFC 1982 3.2). Of two that are 2^31 apart neither is.
func Newer(a, b uint32) bool { return a != b && a-b < 1<<31 }
