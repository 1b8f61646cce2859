-- name: administrator : who provisions, and what that role may do
SELECT rolname AS name, rolsuper AS super, rolcreatedb AS create_database, rolcreaterole AS create_role,
       pg_catalog.current_setting('server_version_num')::integer / 10000 AS major
  FROM pg_catalog.pg_roles
 WHERE rolname = current_user

-- name: lock : of all sessions that provision on this server, one at a time
SELECT pg_catalog.pg_advisory_lock(1885824613, 1920102146)

-- name: role
SELECT rolsuper AS super, rolcanlogin AS login, rolinherit AS inherits,
       rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls AS more
  FROM pg_catalog.pg_roles
 WHERE rolname = $1

-- name: is_member : in PostgreSQL 16 a member may be one without its rights, which USAGE tells
SELECT pg_catalog.pg_has_role($1::name, $2::name, 'USAGE') AND pg_catalog.pg_has_role($1::name, $2::name, 'MEMBER')

-- name: may_become : whether the administrator could hand objects to the role; before PostgreSQL 16 by membership
SELECT pg_catalog.pg_has_role(current_user, $1::name, $2)

-- name: database
SELECT pg_catalog.pg_encoding_to_char(encoding) AS encoding, datallowconn AS open
  FROM pg_catalog.pg_database
 WHERE datname = $1

-- name: database_rights : of the wanted privileges those that the role was not granted by name
SELECT wanted.privilege
  FROM unnest($3::text[]) WITH ORDINALITY AS wanted (privilege, place)
 WHERE NOT EXISTS (
       SELECT 1
         FROM pg_catalog.pg_database d
        CROSS JOIN LATERAL pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) AS a
        WHERE d.datname = $1 AND a.privilege_type = wanted.privilege
          AND a.grantee = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = $2))
 ORDER BY wanted.place

-- name: search_path : the setting that a role has in this database, if any
SELECT substr(option, length('search_path=') + 1)
  FROM pg_catalog.pg_db_role_setting s
 CROSS JOIN LATERAL unnest(s.setconfig) AS option
 WHERE s.setdatabase = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
   AND s.setrole = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = $1)
   AND option LIKE 'search\_path=%'

-- name: schema : of schema public the owner, whether that is a person's or an application's role, and what PUBLIC may do
SELECT r.rolname AS owner,
       r.rolcanlogin AND NOT r.rolsuper AND r.rolname <> current_user AS taken,
       EXISTS (SELECT 1 FROM pg_catalog.aclexplode(coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner))) AS a
                WHERE a.grantee = 0 AND a.privilege_type = 'CREATE') AS open
  FROM pg_catalog.pg_namespace n
  JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner
 WHERE n.nspname = 'public'
