CREATE TYPE public.allocation_status AS ENUM (
    'reserved',
    'purchased',
    'expired',
    'user_cancelled',
    'refunded'
);

CREATE TYPE public.event_change AS ENUM (
    'created',
    'updated',
    'resized',
    'reserved',
    'purchased',
    'expired',
    'user_cancelled',
    'refunded',
    'joined',
    'left',
    'offered'
);

CREATE FUNCTION public.actor_name(secret uuid, user_fingerprint text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select
        left(
            encode(
                sha256(
                    uuid_send(secret) || sha256(replace(user_fingerprint, '\', '\\')::bytea)
                ),
                'hex'
            ),
            10
        )
$$;

CREATE FUNCTION public.add_event_secret() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO '$user', 'public'
    AS $$
begin
    insert into event_private (event_id) values (new.id);
    return null;
end
$$;

CREATE FUNCTION public.derived_id(seed uuid, request bigint, nth integer) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select
        (
            left(seed::text, 14) || overlay(
                overlay(
                    left(md5(seed::text || request::text || '.' || nth::text), 20)
                    placing '7' from 1
                )
                placing '8' from 5
            )
        )::uuid
$$;

CREATE FUNCTION public.entry_state(reservation_id uuid, left_at timestamp with time zone, unservable_at timestamp with time zone, is_held boolean, is_purchased boolean) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select
        case
            when left_at is not null then 'left'
            when unservable_at is not null then 'lapsed'
            when reservation_id is null then 'waiting'
            when is_held then 'offered'
            when is_purchased then 'fulfilled'
            else 'lapsed'
        end
$$;

CREATE FUNCTION public.hold_end(begins_at timestamp with time zone, seconds integer) RETURNS timestamp with time zone
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select begins_at + make_interval(secs => seconds)
$$;

CREATE FUNCTION public.hold_outcome(status public.allocation_status, expires_at timestamp with time zone, at timestamp with time zone) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select
        case
            when status = 'purchased' then 'already_purchased'
            when status = 'user_cancelled' then 'already_cancelled'
            when status = 'refunded' then 'already_refunded'
            when status = 'expired' or expires_at <= at then 'hold_expired'
            else 'granted'
        end
$$;

CREATE FUNCTION public.name_for_search(name text) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
declare
    folded text;
begin
    if to_regcollation('pg_unicode_fast') is not null then
        folded := upper(lower(name collate pg_unicode_fast));
    elsif to_regcollation('"und-x-icu"') is not null then
        folded := upper(lower(name collate "und-x-icu"));
    else
        folded := upper(lower(name));
    end if;
    -- Checking a text takes a third of the time of normalizing it.
    return case when folded is nfc normalized then folded else normalize(folded, nfc) end;
end
$$;

CREATE FUNCTION public.normalize_event_name() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO '$user', 'public'
    AS $$
begin
    -- An unchanged name may be one of those that could not be normalized.
    if new.name is distinct from old.name then
        new.name := normalize(new.name, nfc);
    end if;
    return new;
end
$$;

CREATE FUNCTION public.offer_turn(turn integer[], available integer, quantity integer, passed integer) RETURNS integer[]
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
begin
    turn := coalesce(turn, array[available, 2147483647]);
    if turn[2] <= 0 then
        return turn;
    elsif quantity <= turn[1] then
        return array[turn[1] - quantity, turn[2] - quantity];
    else
        return array[turn[1], least(turn[2], quantity - passed)];
    end if;
end
$$;

CREATE FUNCTION public.open_event_ledger() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO '$user', 'public'
    AS $$
begin
    insert into event_ledger (
        event_id, version, total_tickets, allocated_tickets, purchased_tickets, last_event
    )
    values (
        new.id, new.version, new.total_tickets, new.allocated_tickets, new.purchased_tickets, 'created'
    );
    return null;
end
$$;

CREATE FUNCTION public.pass_ticket(allowances integer[], opening integer[], giver integer, taker integer) RETURNS integer[]
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
begin
    allowances := coalesce(allowances, opening);
    if allowances[taker] >= 1 then
        allowances[taker] := allowances[taker] - 1;
        allowances[giver] := allowances[giver] + 1;
    end if;
    return allowances;
end
$$;

CREATE FUNCTION public.refuse_to_change_ledger() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO '$user', 'public'
    AS $$
begin
    raise exception 'the ledger is append-only: % is refused', lower(tg_op)
    using errcode = 'restrict_violation',
        hint = 'Correct the event instead; its next change is recorded.';
end
$$;

CREATE FUNCTION public.refuse_unless(is_met boolean) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
begin
    if is_met is not true then
        raise exception 'the event is in another state than the request names'
        using errcode = 'HF412';
    end if;
    return true;
end
$$;

CREATE FUNCTION public.reservation_id_for_key(secret uuid, user_fingerprint text, idempotency_key text) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select
        overlay(
            overlay(
                left(
                    encode(
                        sha256(
                            uuid_send(secret)
                            || sha256(replace(user_fingerprint, '\', '\\')::bytea)
                            || sha256(replace(idempotency_key, '\', '\\')::bytea)
                        ),
                        'hex'
                    ),
                    32
                )
                placing '8' from 13
            )
            placing '8' from 17
        )::uuid
$$;

CREATE FUNCTION public.sale_status_at(opens_at timestamp with time zone, closes_at timestamp with time zone, at timestamp with time zone) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select
        case
            when at < opens_at then 'upcoming'
            when at >= closes_at then 'closed'
            else 'open'
        end
$$;

CREATE FUNCTION public.status_at(status public.allocation_status, expires_at timestamp with time zone, at timestamp with time zone) RETURNS public.allocation_status
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    select case when status = 'reserved' and expires_at <= at then 'expired' else status end
$$;

CREATE FUNCTION public.take_turn(remaining integer[], opening integer[], wanted integer, place integer) RETURNS integer[]
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
begin
    remaining := coalesce(remaining, opening);
    if wanted <= remaining[1] and (place is null or wanted <= remaining[place]) then
        remaining[1] := remaining[1] - wanted;
        if place is not null then
            remaining[place] := remaining[place] - wanted;
        end if;
    end if;
    return remaining;
end
$$;

CREATE FUNCTION public.time_ordered_uuid() RETURNS uuid
    LANGUAGE sql PARALLEL SAFE
    AS $$
    select
        encode(
            set_bit(
                set_bit(
                    overlay(
                        uuid_send(gen_random_uuid())
                        placing substring(
                            int8send(floor(extract(epoch from statement_timestamp()) * 1000)::bigint)
                            from 3
                        )
                        from 1 for 6
                    ),
                    52, 1
                ),
                53, 1
            ),
            'hex'
        )::uuid
$$;

CREATE FUNCTION public.touch_updated_at() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO '$user', 'public'
    AS $$
begin
    new.updated_at := greatest(statement_timestamp(), old.updated_at);
    return new;
end
$$;

CREATE AGGREGATE public.allowances_after(opening integer[], giver integer, taker integer) (
    SFUNC = public.pass_ticket,
    STYPE = integer[],
    PARALLEL = safe
);

CREATE AGGREGATE public.remaining_after(opening integer[], wanted integer, place integer) (
    SFUNC = public.take_turn,
    STYPE = integer[],
    PARALLEL = safe
);

CREATE AGGREGATE public.turn_after(available integer, quantity integer, passed integer) (
    SFUNC = public.offer_turn,
    STYPE = integer[],
    PARALLEL = safe
);

CREATE TABLE public.event_ledger (
    event_id uuid NOT NULL,
    version bigint NOT NULL,
    recorded_at timestamp with time zone DEFAULT statement_timestamp() NOT NULL,
    total_tickets integer NOT NULL,
    allocated_tickets integer NOT NULL,
    purchased_tickets integer NOT NULL,
    reserved integer DEFAULT 0 NOT NULL,
    purchased integer DEFAULT 0 NOT NULL,
    expired integer DEFAULT 0 NOT NULL,
    cancelled integer DEFAULT 0 NOT NULL,
    refunded integer DEFAULT 0 NOT NULL,
    last_event public.event_change NOT NULL,
    actor character varying,
    waiting_tickets integer DEFAULT 0 NOT NULL,
    CONSTRAINT ledger_moves_are_never_negative CHECK ((LEAST(reserved, purchased, expired, cancelled, refunded) >= 0)),
    CONSTRAINT ledger_versions_begin_at_one CHECK ((version >= 1))
);

CREATE TABLE public.event_private (
    event_id uuid NOT NULL,
    secret uuid DEFAULT gen_random_uuid() NOT NULL
);

CREATE TABLE public.events (
    id uuid DEFAULT public.time_ordered_uuid() NOT NULL,
    name character varying NOT NULL,
    date timestamp with time zone NOT NULL,
    total_tickets integer NOT NULL,
    allocated_tickets integer DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT statement_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT statement_timestamp() NOT NULL,
    purchased_tickets integer DEFAULT 0 NOT NULL,
    version bigint DEFAULT 1 NOT NULL,
    sale_opens_at timestamp with time zone,
    sale_closes_at timestamp with time zone,
    hold_seconds integer,
    max_hold_seconds integer,
    max_tickets_per_person integer,
    revision bigint DEFAULT 1 NOT NULL,
    waiting_tickets integer DEFAULT 0 NOT NULL,
    CONSTRAINT each_person_may_have_a_ticket CHECK ((max_tickets_per_person >= 1)),
    CONSTRAINT events_begin_at_revision_one CHECK ((revision >= 1)),
    CONSTRAINT events_begin_at_version_one CHECK ((version >= 1)),
    CONSTRAINT events_have_a_name CHECK ((((char_length((name)::text) >= 1) AND (char_length((name)::text) <= 255)) AND (btrim((name)::text, ' 	

'::text) <> ''::text))),
    CONSTRAINT events_have_tickets CHECK ((total_tickets >= 1)),
    CONSTRAINT events_never_allocate_below_zero CHECK ((allocated_tickets >= 0)),
    CONSTRAINT events_never_oversold CHECK ((allocated_tickets <= total_tickets)),
    CONSTRAINT events_never_purchase_below_zero CHECK ((purchased_tickets >= 0)),
    CONSTRAINT events_purchase_only_what_is_allocated CHECK ((purchased_tickets <= allocated_tickets)),
    CONSTRAINT holds_last_a_second_to_a_year CHECK (((hold_seconds >= 1) AND (hold_seconds <= 31536000))),
    CONSTRAINT lines_never_want_below_zero CHECK ((waiting_tickets >= 0)),
    CONSTRAINT longest_holds_are_not_shorter_than_holds CHECK ((max_hold_seconds >= hold_seconds)),
    CONSTRAINT longest_holds_last_a_second_to_a_year CHECK (((max_hold_seconds >= 1) AND (max_hold_seconds <= 31536000))),
    CONSTRAINT sales_open_before_they_close CHECK ((sale_opens_at < sale_closes_at))
)
WITH (fillfactor='50');

CREATE TABLE public.ticket_allocations (
    id uuid DEFAULT public.time_ordered_uuid() NOT NULL,
    event_id uuid NOT NULL,
    user_fingerprint character varying NOT NULL,
    status public.allocation_status DEFAULT 'reserved'::public.allocation_status NOT NULL,
    expires_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT statement_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT statement_timestamp() NOT NULL,
    reservation_id uuid DEFAULT public.time_ordered_uuid() NOT NULL,
    "position" integer DEFAULT 1 NOT NULL,
    held_event_id uuid GENERATED ALWAYS AS (
CASE
    WHEN (status = 'reserved'::public.allocation_status) THEN event_id
    ELSE NULL::uuid
END) STORED,
    held_until timestamp with time zone GENERATED ALWAYS AS (
CASE
    WHEN (status = 'reserved'::public.allocation_status) THEN expires_at
    ELSE NULL::timestamp with time zone
END) STORED,
    CONSTRAINT purchased_tickets_have_no_end CHECK (((status <> 'purchased'::public.allocation_status) OR (expires_at IS NULL))),
    CONSTRAINT reserved_tickets_have_an_end CHECK (((status <> 'reserved'::public.allocation_status) OR (expires_at IS NOT NULL))),
    CONSTRAINT tickets_are_numbered_from_one CHECK (("position" >= 1)),
    CONSTRAINT tickets_have_an_owner CHECK (((char_length((user_fingerprint)::text) >= 1) AND (char_length((user_fingerprint)::text) <= 512)))
);

CREATE TABLE public.waiting_entries (
    id uuid DEFAULT public.time_ordered_uuid() NOT NULL,
    event_id uuid NOT NULL,
    "position" integer NOT NULL,
    user_fingerprint character varying NOT NULL,
    quantity integer NOT NULL,
    reservation_id uuid,
    left_at timestamp with time zone,
    unservable_at timestamp with time zone,
    created_at timestamp with time zone DEFAULT statement_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT statement_timestamp() NOT NULL,
    waiting_event_id uuid GENERATED ALWAYS AS (
CASE
    WHEN ((reservation_id IS NULL) AND (left_at IS NULL) AND (unservable_at IS NULL)) THEN event_id
    ELSE NULL::uuid
END) STORED,
    CONSTRAINT entries_are_numbered_from_one CHECK (("position" >= 1)),
    CONSTRAINT entries_have_an_owner CHECK (((char_length((user_fingerprint)::text) >= 1) AND (char_length((user_fingerprint)::text) <= 512))),
    CONSTRAINT entries_want_a_ticket CHECK ((quantity >= 1))
);

ALTER TABLE ONLY public.waiting_entries
    ADD CONSTRAINT entries_have_an_order UNIQUE (event_id, "position");

ALTER TABLE ONLY public.event_ledger
    ADD CONSTRAINT event_ledger_pkey PRIMARY KEY (event_id, version);

ALTER TABLE ONLY public.event_private
    ADD CONSTRAINT event_private_pkey PRIMARY KEY (event_id);

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_are_unique_by_name_and_date UNIQUE (name, date);

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.ticket_allocations
    ADD CONSTRAINT reservations_number_each_ticket_once UNIQUE (reservation_id, "position");

ALTER TABLE ONLY public.ticket_allocations
    ADD CONSTRAINT ticket_allocations_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.waiting_entries
    ADD CONSTRAINT waiting_entries_pkey PRIMARY KEY (id);

CREATE INDEX idx_events_waiting ON public.events USING btree (id) WHERE (waiting_tickets > 0);

CREATE INDEX idx_ticket_allocations_event_id ON public.ticket_allocations USING btree (event_id);

CREATE INDEX idx_ticket_allocations_expires_at ON public.ticket_allocations USING btree (expires_at);

CREATE INDEX idx_ticket_allocations_held ON public.ticket_allocations USING btree (held_event_id, held_until) WHERE (held_event_id IS NOT NULL);

CREATE INDEX idx_ticket_allocations_status ON public.ticket_allocations USING btree (status);

CREATE INDEX idx_ticket_allocations_user_fingerprint_status ON public.ticket_allocations USING btree (user_fingerprint, status);

CREATE INDEX idx_waiting_entries_line ON public.waiting_entries USING btree (waiting_event_id, quantity, "position") WHERE (waiting_event_id IS NOT NULL);

CREATE INDEX idx_waiting_entries_offered ON public.waiting_entries USING btree (event_id, "position") INCLUDE (quantity) WHERE (reservation_id IS NOT NULL);

CREATE INDEX idx_waiting_entries_order ON public.waiting_entries USING btree (waiting_event_id, "position") INCLUDE (quantity) WHERE (waiting_event_id IS NOT NULL);

CREATE INDEX idx_waiting_entries_reservation_id ON public.waiting_entries USING btree (reservation_id) WHERE (reservation_id IS NOT NULL);

CREATE INDEX idx_waiting_entries_user_fingerprint ON public.waiting_entries USING btree (user_fingerprint, event_id);

CREATE TRIGGER event_ledger_is_append_only BEFORE DELETE OR UPDATE ON public.event_ledger FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_to_change_ledger();

CREATE TRIGGER event_ledger_is_never_truncated BEFORE TRUNCATE ON public.event_ledger FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_to_change_ledger();

CREATE TRIGGER events_have_a_secret AFTER INSERT ON public.events FOR EACH ROW EXECUTE FUNCTION public.add_event_secret();

CREATE TRIGGER events_normalize_name BEFORE INSERT OR UPDATE OF name ON public.events FOR EACH ROW EXECUTE FUNCTION public.normalize_event_name();

CREATE TRIGGER events_open_ledger AFTER INSERT ON public.events FOR EACH ROW EXECUTE FUNCTION public.open_event_ledger();

CREATE TRIGGER events_touch_updated_at BEFORE UPDATE ON public.events FOR EACH ROW EXECUTE FUNCTION public.touch_updated_at();

CREATE TRIGGER ticket_allocations_touch_updated_at BEFORE UPDATE ON public.ticket_allocations FOR EACH ROW EXECUTE FUNCTION public.touch_updated_at();

CREATE TRIGGER waiting_entries_touch_updated_at BEFORE UPDATE ON public.waiting_entries FOR EACH ROW EXECUTE FUNCTION public.touch_updated_at();

ALTER TABLE ONLY public.waiting_entries
    ADD CONSTRAINT entries_belong_to_an_event FOREIGN KEY (event_id) REFERENCES public.events(id);

ALTER TABLE ONLY public.event_ledger
    ADD CONSTRAINT ledger_rows_belong_to_an_event FOREIGN KEY (event_id) REFERENCES public.events(id);

ALTER TABLE ONLY public.event_private
    ADD CONSTRAINT private_rows_belong_to_an_event FOREIGN KEY (event_id) REFERENCES public.events(id);

ALTER TABLE ONLY public.ticket_allocations
    ADD CONSTRAINT tickets_belong_to_an_event FOREIGN KEY (event_id) REFERENCES public.events(id);
