-- Keeps the audit entry ARGV[1] of something that changed no location. KEYS: audit.
audit(KEYS[1], ARGV[1], 'null', 'null')
return 1
