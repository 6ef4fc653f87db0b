-- What is appended to the audit log follows its newest row and is a document. A row that nobody can
-- go on from would stop every change, and could not be removed. Reasons: docs/decisions/0045.
-- allow hooks: code of before appends the next number under the same lock, so it passes
CREATE FUNCTION audit_follows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(47, 0);  -- as who appends holds already
  IF NEW.id IS DISTINCT FROM (SELECT coalesce(max(id), 0) + 1 FROM audit_events)
    OR octet_length(NEW.hash) IS DISTINCT FROM 32
    OR NEW.body !~ '^\{"id":.*\}$' OR json_typeof(NEW.body::json) <> 'object'  -- 22P02: no JSON
  THEN
    RAISE EXCEPTION 'rows of audit_events follow one another' USING ERRCODE = 'SG002';
  END IF;
  RETURN NEW;
END $$;
DO $$
BEGIN
  EXECUTE format('ALTER FUNCTION audit_follows() SET search_path = %I, pg_temp', current_schema());
END $$;
CREATE TRIGGER audit_follows BEFORE INSERT ON audit_events
  FOR EACH ROW EXECUTE FUNCTION audit_follows();
