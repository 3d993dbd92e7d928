-- check_server
--
-- Reads what decides whether a PostgreSQL can be trusted with tickets. With fsync,
-- full_page_writes or synchronous_commit off, a crash can take back a ticket that its buyer has
-- already; with synchronous_commit local, a failover can. Without a collation that knows the upper
-- and lower case of all letters, a search depends on the database's locale.
--
-- It also reads after how many seconds the server detects a client that vanished without closing
-- the connection. Until then it may wait for the rest of a batch, with the batch's events locked.
-- 0 stands for a Unix socket, whose client cannot vanish.
--
-- returns: one row
--
-- holdfast psql -f sql/check_server.sql

select
    current_setting('server_version_num')::integer as version_number,
    current_setting('server_version') as version,
    current_setting('fsync')::boolean as fsync,
    current_setting('full_page_writes')::boolean as full_page_writes,
    current_setting('synchronous_commit') as synchronous_commit,
    pg_is_in_recovery() as is_standby,
    current_setting('server_encoding') as encoding,
    current_setting('synchronous_standby_names') <> '' as has_standbys,
    current_setting('max_connections')::integer
    - current_setting('superuser_reserved_connections')::integer as connections,
    extract(epoch from clock_timestamp())::double precision as clock,
    current_setting('DateStyle') as date_style,
    (
        select count(*) > 0
        from pg_extension
        where extname = 'citus'
    ) as is_citus,
    -- As in the function name_for_search.
    coalesce(to_regcollation('pg_unicode_fast'), to_regcollation('"und-x-icu"')) is not null
        as knows_all_letters,
    current_setting('tcp_keepalives_idle')::integer
    + current_setting('tcp_keepalives_interval')::integer
    * current_setting('tcp_keepalives_count')::integer as lost_client_seconds;
