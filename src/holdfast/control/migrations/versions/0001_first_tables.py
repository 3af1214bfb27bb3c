"""All tables as they were at first."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from holdfast.control import append_only

revision = "0001"
down_revision = None

TIME = sa.DateTime(timezone=True)
DOCUMENT = sa.JSON(none_as_null=True).with_variant(
    postgresql.JSONB(none_as_null=True), "postgresql"
)
COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", COUNTER, autoincrement=True, nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("actor_kind", sa.String(length=16), nullable=False),
        sa.Column("actor_id", sa.String(length=120), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject_kind", sa.String(length=32), nullable=False),
        sa.Column("subject_id", sa.String(length=120), nullable=False),
        sa.Column("before", DOCUMENT, nullable=True),
        sa.Column("after", DOCUMENT, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_account_id_id"), "audit", ["account_id", "id"], unique=False)
    op.create_index(
        op.f("ix_audit_account_id_subject_id_id"),
        "audit",
        ["account_id", "subject_id", "id"],
        unique=False,
    )
    op.create_table(
        "leaderships",
        sa.Column("name", sa.String(length=50), nullable=False),
        sa.Column("holder", sa.String(length=36), nullable=False),
        sa.Column("until", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leaderships")),
    )
    op.create_table(
        "regions",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=50), nullable=False),
        sa.Column("location", sa.String(length=1000), nullable=False),
        sa.Column("sealed_options", sa.String(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_regions")),
        sa.UniqueConstraint("name", name=op.f("uq_regions_name")),
    )
    op.create_table(
        "sign_in_failures",
        sa.Column("subject", sa.String(length=80), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("last_at", TIME, nullable=False),
        sa.Column("blocked_until", TIME, nullable=True),
        sa.PrimaryKeyConstraint("subject", name=op.f("pk_sign_in_failures")),
    )
    op.create_index(
        op.f("ix_sign_in_failures_last_at"), "sign_in_failures", ["last_at"], unique=False
    )
    op.create_table(
        "users",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("password_hash", sa.String(length=200), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("email", name=op.f("uq_users_email")),
    )
    op.create_table(
        "accounts",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("is_operator", sa.Boolean(), nullable=False),
        sa.Column("profile", DOCUMENT, nullable=False),
        sa.Column("region_id", sa.String(length=36), nullable=False),
        sa.Column("quota_stored_bytes", sa.BigInteger(), nullable=True),
        sa.Column("quota_snapshots", sa.BigInteger(), nullable=True),
        sa.Column("quota_running_jobs", sa.BigInteger(), nullable=True),
        sa.Column("recycle_days", sa.Integer(), nullable=False),
        sa.Column("prepaid", sa.Boolean(), nullable=False),
        sa.Column("balance_micro", sa.BigInteger(), nullable=False),
        sa.Column("balance_rest_femto", sa.BigInteger(), nullable=False),
        sa.Column("low_credit_micro", sa.BigInteger(), nullable=False),
        sa.Column("credit_state", sa.String(length=16), nullable=False),
        sa.Column("credit_state_since", TIME, nullable=True),
        sa.ForeignKeyConstraint(["region_id"], ["regions.id"], name=op.f("fk_accounts_region_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounts")),
    )
    op.create_table(
        "prices",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("what", sa.String(length=32), nullable=False),
        sa.Column("region_id", sa.String(length=36), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("rate", sa.String(length=40), nullable=False),
        sa.Column("unit", sa.String(length=32), nullable=False),
        sa.Column("rate_femto", sa.BigInteger(), nullable=False),
        sa.Column("valid_from", TIME, nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["region_id"], ["regions.id"], name=op.f("fk_prices_region_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prices")),
        sa.UniqueConstraint(
            "what",
            "region_id",
            "currency",
            "valid_from",
            name=op.f("uq_prices_what_region_id_currency_valid_from"),
        ),
    )
    op.create_table(
        "events",
        sa.Column("id", COUNTER, autoincrement=True, nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("subject_kind", sa.String(length=32), nullable=False),
        sa.Column("subject_id", sa.String(length=120), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", DOCUMENT, nullable=False),
        sa.Column("correlation_id", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_events_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index(op.f("ix_events_account_id_id"), "events", ["account_id", "id"], unique=False)
    op.create_table(
        "hosts",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("region_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("labels", DOCUMENT, nullable=False),
        sa.Column("enrolled_at", TIME, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.Column("seen_at", TIME, nullable=True),
        sa.Column("silent_since", TIME, nullable=True),
        sa.Column("version", sa.String(length=50), nullable=False),
        sa.Column("inventory", DOCUMENT, nullable=False),
        sa.Column("roots", DOCUMENT, nullable=False),
        sa.Column("put_only", sa.Boolean(), nullable=False),
        sa.Column("keeper", sa.Boolean(), nullable=False),
        sa.Column("max_jobs", sa.Integer(), nullable=False),
        sa.Column("agent_instance", sa.String(length=36), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_hosts_account_id")),
        sa.ForeignKeyConstraint(["region_id"], ["regions.id"], name=op.f("fk_hosts_region_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hosts")),
    )
    op.create_index(
        op.f("ix_hosts_account_id_created_at_id"),
        "hosts",
        ["account_id", "created_at", "id"],
        unique=False,
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("request_sha256", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("body", DOCUMENT, nullable=True),
        sa.Column("location", sa.String(length=300), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_idempotency_keys_account_id")
        ),
        sa.PrimaryKeyConstraint("account_id", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("region_id", sa.String(length=36), nullable=False),
        sa.Column("repository_id", sa.String(length=36), nullable=True),
        sa.Column("host_id", sa.String(length=36), nullable=True),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("subject_kind", sa.String(length=32), nullable=False),
        sa.Column("subject_id", sa.String(length=36), nullable=False),
        sa.Column("lock_key", sa.String(length=120), nullable=False),
        sa.Column("idempotency_key", sa.String(length=200), nullable=True),
        sa.Column("spec", DOCUMENT, nullable=False),
        sa.Column("spec_version", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("give_up_at", TIME, nullable=True),
        sa.Column("not_before", TIME, nullable=False),
        sa.Column("leased_to", sa.String(length=36), nullable=True),
        sa.Column("lease_until", TIME, nullable=True),
        sa.Column("cancel_requested_at", TIME, nullable=True),
        sa.Column("cancelled_by", sa.String(length=120), nullable=True),
        sa.Column("stage", sa.String(length=32), nullable=False),
        sa.Column("progress", DOCUMENT, nullable=False),
        sa.Column("result", DOCUMENT, nullable=True),
        sa.Column("findings", DOCUMENT, nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("correlation_id", sa.String(length=64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("finished_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_jobs_account_id")),
        sa.ForeignKeyConstraint(["region_id"], ["regions.id"], name=op.f("fk_jobs_region_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index(
        op.f("ix_jobs_account_id_created_at_id"),
        "jobs",
        ["account_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_jobs_account_id_state_created_at_id"),
        "jobs",
        ["account_id", "state", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_jobs_state_host_id_not_before"),
        "jobs",
        ["state", "host_id", "not_before"],
        unique=False,
    )
    op.create_index(
        op.f("ix_jobs_state_lease_until"), "jobs", ["state", "lease_until"], unique=False
    )
    op.create_index(
        op.f("ix_jobs_subject_id_created_at_id"),
        "jobs",
        ["subject_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "uq_jobs_idempotency_key", "jobs", ["account_id", "idempotency_key"], unique=True
    )
    op.create_index(
        "uq_jobs_lock_key_leased",
        "jobs",
        ["lock_key"],
        unique=True,
        sqlite_where=sa.text("state = 'leased'"),
        postgresql_where=sa.text("state = 'leased'"),
    )
    op.create_table(
        "ledger",
        sa.Column("id", COUNTER, autoincrement=True, nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("what", sa.String(length=32), nullable=True),
        sa.Column("resource_kind", sa.String(length=32), nullable=True),
        sa.Column("resource_id", sa.String(length=36), nullable=True),
        sa.Column("region_id", sa.String(length=36), nullable=True),
        sa.Column("hour", TIME, nullable=False),
        sa.Column("quantity_mb", sa.BigInteger(), nullable=False),
        sa.Column("price_id", sa.String(length=36), nullable=True),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("amount_micro", sa.BigInteger(), nullable=False),
        sa.Column("amount_rest_femto", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("labels", DOCUMENT, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_ledger_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger")),
        sa.UniqueConstraint(
            "hour",
            "resource_id",
            "what",
            "region_id",
            name=op.f("uq_ledger_hour_resource_id_what_region_id"),
        ),
    )
    op.create_index(
        op.f("ix_ledger_account_id_hour_id"), "ledger", ["account_id", "hour", "id"], unique=False
    )
    op.create_index(
        op.f("ix_ledger_resource_id_hour_id"), "ledger", ["resource_id", "hour", "id"], unique=False
    )
    op.create_index(
        "uq_ledger_once",
        "ledger",
        ["resource_id", "what"],
        unique=True,
        sqlite_where=sa.text("kind = 'once'"),
        postgresql_where=sa.text("kind = 'once'"),
    )
    op.create_table(
        "members",
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("user_id", sa.String(length=36), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_members_account_id")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_members_user_id")),
        sa.PrimaryKeyConstraint("account_id", "user_id", name=op.f("pk_members")),
    )
    op.create_table(
        "meters",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("region_id", sa.String(length=36), nullable=False),
        sa.Column("what", sa.String(length=32), nullable=False),
        sa.Column("resource_kind", sa.String(length=32), nullable=False),
        sa.Column("resource_id", sa.String(length=36), nullable=False),
        sa.Column("quantity_bytes", sa.BigInteger(), nullable=False),
        sa.Column("since", TIME, nullable=False),
        sa.Column("until", TIME, nullable=True),
        sa.Column("booked_until", TIME, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_meters_account_id")),
        sa.ForeignKeyConstraint(["region_id"], ["regions.id"], name=op.f("fk_meters_region_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_meters")),
    )
    op.create_index(op.f("ix_meters_account_id"), "meters", ["account_id"], unique=False)
    op.create_index(op.f("ix_meters_resource_id"), "meters", ["resource_id"], unique=False)
    op.create_index(
        "uq_meters_open",
        "meters",
        ["resource_id", "what", "region_id"],
        unique=True,
        sqlite_where=sa.text("until IS NULL"),
        postgresql_where=sa.text("until IS NULL"),
    )
    op.create_table(
        "repositories",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("region_id", sa.String(length=36), nullable=False),
        sa.Column("sealed_password", sa.String(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("created_in_store_at", TIME, nullable=True),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
        sa.Column("pruned_at", TIME, nullable=True),
        sa.Column("verified_at", TIME, nullable=True),
        sa.Column("reconciled_at", TIME, nullable=True),
        sa.Column("measured_at", TIME, nullable=True),
        sa.Column("verify_share", DOCUMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_repositories_account_id")
        ),
        sa.ForeignKeyConstraint(
            ["region_id"], ["regions.id"], name=op.f("fk_repositories_region_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_repositories")),
        sa.UniqueConstraint(
            "account_id", "region_id", name=op.f("uq_repositories_account_id_region_id")
        ),
    )
    op.create_table(
        "sign_ins",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("user_id", sa.String(length=36), nullable=False),
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_sign_ins_account_id")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_sign_ins_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sign_ins")),
        sa.UniqueConstraint("secret_sha256", name=op.f("uq_sign_ins_secret_sha256")),
    )
    op.create_index(op.f("ix_sign_ins_account_id"), "sign_ins", ["account_id"], unique=False)
    op.create_index(op.f("ix_sign_ins_user_id"), "sign_ins", ["user_id"], unique=False)
    op.create_table(
        "tasks",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("short_name", sa.String(length=200), nullable=True),
        sa.Column("profile", sa.String(length=64), nullable=False),
        sa.Column("constants", DOCUMENT, nullable=False),
        sa.Column("inputs", DOCUMENT, nullable=False),
        sa.Column("result_bucket", sa.String(length=63), nullable=True),
        sa.Column("tags", DOCUMENT, nullable=False),
        sa.Column("labels", DOCUMENT, nullable=False),
        sa.Column("instance_count", sa.Integer(), nullable=False),
        sa.Column("runs_on", sa.String(length=36), nullable=True),
        sa.Column("snapshot_whitelist", sa.Text(), nullable=True),
        sa.Column("snapshot_blacklist", sa.Text(), nullable=True),
        sa.Column("results_whitelist", sa.Text(), nullable=True),
        sa.Column("results_blacklist", sa.Text(), nullable=True),
        sa.Column("results_on_cancel", sa.Boolean(), nullable=False),
        sa.Column("starts_from", sa.String(length=36), nullable=True),
        sa.Column("time_limit_seconds", sa.Integer(), nullable=True),
        sa.Column("extra", DOCUMENT, nullable=False),
        sa.Column("state", sa.String(length=24), nullable=False),
        sa.Column("previous_state", sa.String(length=24), nullable=True),
        sa.Column("state_since", TIME, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("ended_at", TIME, nullable=True),
        sa.Column("inputs_renewed_at", TIME, nullable=True),
        sa.Column("cancel_requested_at", TIME, nullable=True),
        sa.Column("delete_requested_at", TIME, nullable=True),
        sa.Column("removed_at", TIME, nullable=True),
        sa.Column("periodic_seconds", sa.Integer(), nullable=True),
        sa.Column("periodic_since", TIME, nullable=True),
        sa.Column("periodic_options", DOCUMENT, nullable=False),
        sa.Column("results_count", sa.BigInteger(), nullable=False),
        sa.Column("findings", DOCUMENT, nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_tasks_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
    )
    op.create_index(
        op.f("ix_tasks_account_id_created_at_id"),
        "tasks",
        ["account_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_tasks_account_id_state_created_at_id"),
        "tasks",
        ["account_id", "state", "created_at", "id"],
        unique=False,
    )
    op.create_index(op.f("ix_tasks_state"), "tasks", ["state"], unique=False)
    op.create_index(
        "uq_tasks_short_name",
        "tasks",
        ["account_id", "short_name"],
        unique=True,
        sqlite_where=sa.text("removed_at IS NULL AND short_name IS NOT NULL"),
        postgresql_where=sa.text("removed_at IS NULL AND short_name IS NOT NULL"),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("user_id", sa.String(length=36), nullable=True),
        sa.Column("host_id", sa.String(length=36), nullable=True),
        sa.Column("purpose", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("sealed_secret", sa.String(), nullable=True),
        sa.Column("hint", sa.String(length=16), nullable=False),
        sa.Column("rights", DOCUMENT, nullable=False),
        sa.Column("kinds", DOCUMENT, nullable=False),
        sa.Column("resources", DOCUMENT, nullable=False),
        sa.Column("options", DOCUMENT, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.Column("used_at", TIME, nullable=True),
        sa.Column("used_from", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_tokens_account_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("secret_sha256", name=op.f("uq_tokens_secret_sha256")),
    )
    op.create_index(
        op.f("ix_tokens_account_id_created_at_id"),
        "tokens",
        ["account_id", "created_at", "id"],
        unique=False,
    )
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("url", sa.String(length=2000), nullable=False),
        sa.Column("kinds", DOCUMENT, nullable=False),
        sa.Column("sealed_secret", sa.String(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("removed_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_webhooks_account_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index(
        op.f("ix_webhooks_account_id_created_at_id"),
        "webhooks",
        ["account_id", "created_at", "id"],
        unique=False,
    )
    op.create_table(
        "bodies",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("repository_id", sa.String(length=36), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("used_by", DOCUMENT, nullable=False),
        sa.Column("due_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name=op.f("fk_bodies_repository_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bodies")),
    )
    op.create_index(
        "ix_bodies_due_at",
        "bodies",
        ["due_at"],
        unique=False,
        sqlite_where=sa.text("uses = 0"),
        postgresql_where=sa.text("uses = 0"),
    )
    op.create_index(op.f("ix_bodies_repository_id"), "bodies", ["repository_id"], unique=False)
    op.create_table(
        "buckets",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("region_id", sa.String(length=36), nullable=False),
        sa.Column("repository_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("objects", sa.BigInteger(), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
        sa.Column("metered_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_buckets_account_id")
        ),
        sa.ForeignKeyConstraint(["region_id"], ["regions.id"], name=op.f("fk_buckets_region_id")),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name=op.f("fk_buckets_repository_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_buckets")),
        sa.UniqueConstraint("account_id", "name", name=op.f("uq_buckets_account_id_name")),
    )
    op.create_index(
        op.f("ix_buckets_account_id_created_at_id"),
        "buckets",
        ["account_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_buckets_unmetered",
        "buckets",
        ["account_id", "id"],
        unique=False,
        sqlite_where=sa.text("stored_bytes <> metered_bytes"),
        postgresql_where=sa.text("stored_bytes <> metered_bytes"),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", COUNTER, autoincrement=True, nullable=False),
        sa.Column("event_id", COUNTER, nullable=False),
        sa.Column("webhook_id", sa.String(length=36), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("not_before", TIME, nullable=False),
        sa.Column("answer", sa.String(length=200), nullable=False),
        sa.Column("delivered_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["event_id"], ["events.id"], name=op.f("fk_deliveries_event_id")),
        sa.ForeignKeyConstraint(
            ["webhook_id"], ["webhooks.id"], name=op.f("fk_deliveries_webhook_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
    )
    op.create_index(
        op.f("ix_deliveries_state_not_before"), "deliveries", ["state", "not_before"], unique=False
    )
    op.create_index(
        op.f("ix_deliveries_webhook_id_id"), "deliveries", ["webhook_id", "id"], unique=False
    )
    op.create_table(
        "job_lines",
        sa.Column("id", COUNTER, autoincrement=True, nullable=False),
        sa.Column("job_id", sa.String(length=36), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("level", sa.String(length=8), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_lines_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_lines")),
    )
    op.create_index(op.f("ix_job_lines_job_id_id"), "job_lines", ["job_id", "id"], unique=False)
    op.create_table(
        "sources",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("host_id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("options", DOCUMENT, nullable=False),
        sa.Column("labels", DOCUMENT, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("removed_at", TIME, nullable=True),
        sa.Column("protected_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_sources_account_id")
        ),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name=op.f("fk_sources_host_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sources")),
    )
    op.create_index(
        op.f("ix_sources_account_id_created_at_id"),
        "sources",
        ["account_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_sources_host_id_created_at_id"),
        "sources",
        ["host_id", "created_at", "id"],
        unique=False,
    )
    op.create_table(
        "task_instances",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("task_id", sa.String(length=36), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("host_id", sa.String(length=36), nullable=True),
        sa.Column("job_id", sa.String(length=36), nullable=True),
        sa.Column("source_id", sa.String(length=36), nullable=True),
        sa.Column("runner", sa.String(length=16), nullable=False),
        sa.Column("reference", sa.String(length=120), nullable=False),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("ended_at", TIME, nullable=True),
        sa.Column("stdout_bytes", sa.BigInteger(), nullable=False),
        sa.Column("stderr_bytes", sa.BigInteger(), nullable=False),
        sa.Column("frozen_micro", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_task_instances_account_id")
        ),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_task_instances_task_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task_instances")),
        sa.UniqueConstraint("task_id", "number", name=op.f("uq_task_instances_task_id_number")),
    )
    op.create_index(
        op.f("ix_task_instances_host_id_state"),
        "task_instances",
        ["host_id", "state"],
        unique=False,
    )
    op.create_index(op.f("ix_task_instances_job_id"), "task_instances", ["job_id"], unique=False)
    op.create_index(op.f("ix_task_instances_state"), "task_instances", ["state"], unique=False)
    op.create_table(
        "task_output_reads",
        sa.Column("task_id", sa.String(length=36), nullable=False),
        sa.Column("stream", sa.String(length=8), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("after_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["task_id"], ["tasks.id"], name=op.f("fk_task_output_reads_task_id")
        ),
        sa.PrimaryKeyConstraint("task_id", "stream", "number", name=op.f("pk_task_output_reads")),
    )
    op.create_table(
        "task_snapshots",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("task_id", sa.String(length=36), nullable=False),
        sa.Column("trigger", sa.String(length=16), nullable=False),
        sa.Column("slot_at", TIME, nullable=True),
        sa.Column("triggered_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("whitelist", sa.Text(), nullable=True),
        sa.Column("blacklist", sa.Text(), nullable=True),
        sa.Column("bucket", sa.String(length=63), nullable=True),
        sa.Column("bucket_prefix", sa.Text(), nullable=True),
        sa.Column("directory", sa.Text(), nullable=False),
        sa.Column("label", sa.String(length=100), nullable=False),
        sa.Column("notes", sa.Text(), nullable=False),
        sa.Column("bytes_total", sa.BigInteger(), nullable=False),
        sa.Column("bytes_done", sa.BigInteger(), nullable=False),
        sa.Column("transfer", DOCUMENT, nullable=False),
        sa.Column("findings", DOCUMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_task_snapshots_account_id")
        ),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_task_snapshots_task_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task_snapshots")),
    )
    op.create_index(
        op.f("ix_task_snapshots_account_id_triggered_at_id"),
        "task_snapshots",
        ["account_id", "triggered_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_task_snapshots_task_id_triggered_at_id"),
        "task_snapshots",
        ["task_id", "triggered_at", "id"],
        unique=False,
    )
    op.create_index(
        "uq_task_snapshots_task_id_slot_at", "task_snapshots", ["task_id", "slot_at"], unique=True
    )
    op.create_table(
        "objects",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("bucket_id", sa.String(length=36), nullable=False),
        sa.Column(
            "key", sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), nullable=False
        ),
        sa.Column("hidden", sa.Boolean(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("etag", sa.String(length=64), nullable=False),
        sa.Column("content_type", sa.String(length=255), nullable=False),
        sa.Column("headers", DOCUMENT, nullable=False),
        sa.Column("bodies", DOCUMENT, nullable=False),
        sa.Column("modified_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["bucket_id"], ["buckets.id"], name=op.f("fk_objects_bucket_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_objects")),
    )
    op.create_index("uq_objects_bucket_id_key", "objects", ["bucket_id", "key"], unique=True)
    op.create_table(
        "schedules",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("source_id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=50), nullable=False),
        sa.Column("interval_hours", sa.Integer(), nullable=True),
        sa.Column("cron", sa.String(length=200), nullable=True),
        sa.Column("timezone", sa.String(length=64), nullable=False),
        sa.Column("window", sa.String(length=20), nullable=True),
        sa.Column("offset_seconds", sa.Integer(), nullable=False),
        sa.Column("retention", DOCUMENT, nullable=False),
        sa.Column("archive_format", sa.String(length=16), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("removed_at", TIME, nullable=True),
        sa.Column("settled_until", TIME, nullable=False),
        sa.Column("due_at", TIME, nullable=True),
        sa.Column("retention_due_at", TIME, nullable=True),
        sa.Column("copy_region_id", sa.String(length=36), nullable=True),
        sa.Column("copy_since", TIME, nullable=True),
        sa.Column("drill_days", sa.Integer(), nullable=True),
        sa.Column("drill_due_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_schedules_account_id")
        ),
        sa.ForeignKeyConstraint(
            ["copy_region_id"], ["regions.id"], name=op.f("fk_schedules_copy_region_id")
        ),
        sa.ForeignKeyConstraint(["source_id"], ["sources.id"], name=op.f("fk_schedules_source_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedules")),
    )
    op.create_index(
        op.f("ix_schedules_account_id_created_at_id"),
        "schedules",
        ["account_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_schedules_copy_region_id"), "schedules", ["copy_region_id"], unique=False
    )
    op.create_index(op.f("ix_schedules_drill_due_at"), "schedules", ["drill_due_at"], unique=False)
    op.create_index(op.f("ix_schedules_due_at"), "schedules", ["due_at"], unique=False)
    op.create_index(
        op.f("ix_schedules_retention_due_at"), "schedules", ["retention_due_at"], unique=False
    )
    op.create_index(op.f("ix_schedules_source_id"), "schedules", ["source_id"], unique=False)
    op.create_table(
        "snapshots",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("source_id", sa.String(length=36), nullable=False),
        sa.Column("schedule_id", sa.String(length=36), nullable=True),
        sa.Column("host_id", sa.String(length=36), nullable=False),
        sa.Column("repository_id", sa.String(length=36), nullable=False),
        sa.Column("job_id", sa.String(length=36), nullable=True),
        sa.Column("task_snapshot_id", sa.String(length=36), nullable=True),
        sa.Column("copy_of_id", sa.String(length=36), nullable=True),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=50), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("labels", DOCUMENT, nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("trigger", sa.String(length=16), nullable=False),
        sa.Column("slot_at", TIME, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("finished_at", TIME, nullable=True),
        sa.Column("captured_at", TIME, nullable=True),
        sa.Column("archive_format", sa.String(length=16), nullable=False),
        sa.Column("manifest_id", sa.String(length=64), nullable=True),
        sa.Column("parent_id", sa.String(length=36), nullable=True),
        sa.Column("consistency", sa.String(length=16), nullable=True),
        sa.Column("files", sa.BigInteger(), nullable=True),
        sa.Column("logical_bytes", sa.BigInteger(), nullable=True),
        sa.Column("read_bytes", sa.BigInteger(), nullable=True),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=True),
        sa.Column("share_bytes", sa.BigInteger(), nullable=True),
        sa.Column("freed_bytes", sa.BigInteger(), nullable=True),
        sa.Column("findings", DOCUMENT, nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("verified_at", TIME, nullable=True),
        sa.Column("verification", DOCUMENT, nullable=True),
        sa.Column("drilled_at", TIME, nullable=True),
        sa.Column("drill", DOCUMENT, nullable=True),
        sa.Column("kept_because", DOCUMENT, nullable=False),
        sa.Column("removed_at", TIME, nullable=True),
        sa.Column("removed_because", sa.Text(), nullable=True),
        sa.Column("purge_at", TIME, nullable=True),
        sa.Column("purged_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_snapshots_account_id")
        ),
        sa.ForeignKeyConstraint(
            ["repository_id"], ["repositories.id"], name=op.f("fk_snapshots_repository_id")
        ),
        sa.ForeignKeyConstraint(["source_id"], ["sources.id"], name=op.f("fk_snapshots_source_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_snapshots")),
    )
    op.create_index(
        op.f("ix_snapshots_account_id_created_at_id"),
        "snapshots",
        ["account_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_snapshots_account_id_name_id"),
        "snapshots",
        ["account_id", "name", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_snapshots_account_id_status_created_at_id"),
        "snapshots",
        ["account_id", "status", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_snapshots_copy_of_id_created_at_id"),
        "snapshots",
        ["copy_of_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_snapshots_host_id_created_at_id"),
        "snapshots",
        ["host_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_snapshots_purge_at",
        "snapshots",
        ["purge_at"],
        unique=False,
        sqlite_where=sa.text("purged_at IS NULL"),
        postgresql_where=sa.text("purged_at IS NULL"),
    )
    op.create_index(
        op.f("ix_snapshots_repository_id_finished_at"),
        "snapshots",
        ["repository_id", "finished_at"],
        unique=False,
    )
    op.create_index(
        op.f("ix_snapshots_repository_id_manifest_id"),
        "snapshots",
        ["repository_id", "manifest_id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_snapshots_repository_id_purged_at"),
        "snapshots",
        ["repository_id", "purged_at"],
        unique=False,
    )
    op.create_index(
        op.f("ix_snapshots_schedule_id_created_at_id"),
        "snapshots",
        ["schedule_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_snapshots_schedule_id_status"),
        "snapshots",
        ["schedule_id", "status"],
        unique=False,
    )
    op.create_index(
        op.f("ix_snapshots_source_id_created_at_id"),
        "snapshots",
        ["source_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_snapshots_task_snapshot_id"), "snapshots", ["task_snapshot_id"], unique=False
    )
    op.create_index(
        "uq_snapshots_schedule_id_slot_at", "snapshots", ["schedule_id", "slot_at"], unique=True
    )
    op.create_table(
        "task_output",
        sa.Column("id", COUNTER, autoincrement=True, nullable=False),
        sa.Column("task_id", sa.String(length=36), nullable=False),
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("stream", sa.String(length=8), nullable=False),
        sa.Column("offset_bytes", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["task_instances.id"], name=op.f("fk_task_output_instance_id")
        ),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_task_output_task_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task_output")),
        sa.UniqueConstraint(
            "instance_id",
            "stream",
            "offset_bytes",
            name=op.f("uq_task_output_instance_id_stream_offset_bytes"),
        ),
    )
    op.create_index(
        op.f("ix_task_output_task_id_stream_id"),
        "task_output",
        ["task_id", "stream", "id"],
        unique=False,
    )
    op.create_table(
        "task_previews",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("task_id", sa.String(length=36), nullable=False),
        sa.Column("instance_id", sa.String(length=36), nullable=False),
        sa.Column("whitelist", sa.Text(), nullable=True),
        sa.Column("blacklist", sa.Text(), nullable=True),
        sa.Column("asked_at", TIME, nullable=False),
        sa.Column("answered_at", TIME, nullable=True),
        sa.Column("answer", DOCUMENT, nullable=True),
        sa.Column("entries_wanted", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_task_previews_account_id")
        ),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["task_instances.id"], name=op.f("fk_task_previews_instance_id")
        ),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_task_previews_task_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task_previews")),
    )
    op.create_index(op.f("ix_task_previews_asked_at"), "task_previews", ["asked_at"], unique=False)
    op.create_index(
        op.f("ix_task_previews_instance_id"), "task_previews", ["instance_id"], unique=False
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("bucket_id", sa.String(length=36), nullable=False),
        sa.Column(
            "key", sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), nullable=False
        ),
        sa.Column("content_type", sa.String(length=255), nullable=False),
        sa.Column("headers", DOCUMENT, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["bucket_id"], ["buckets.id"], name=op.f("fk_uploads_bucket_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    op.create_index(
        op.f("ix_uploads_bucket_id_key_id"), "uploads", ["bucket_id", "key", "id"], unique=False
    )
    op.create_index(op.f("ix_uploads_started_at"), "uploads", ["started_at"], unique=False)
    op.create_table(
        "drills",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("snapshot_id", sa.String(length=36), nullable=False),
        sa.Column("schedule_id", sa.String(length=36), nullable=True),
        sa.Column("host_id", sa.String(length=36), nullable=True),
        sa.Column("job_id", sa.String(length=36), nullable=True),
        sa.Column("trigger", sa.String(length=16), nullable=False),
        sa.Column("paths", DOCUMENT, nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("passed", sa.Boolean(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("finished_at", TIME, nullable=True),
        sa.Column("files", sa.BigInteger(), nullable=True),
        sa.Column("restored_bytes", sa.BigInteger(), nullable=True),
        sa.Column("compared_bytes", sa.BigInteger(), nullable=True),
        sa.Column("restore_milliseconds", sa.BigInteger(), nullable=True),
        sa.Column("findings", DOCUMENT, nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_drills_account_id")),
        sa.ForeignKeyConstraint(
            ["snapshot_id"], ["snapshots.id"], name=op.f("fk_drills_snapshot_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_drills")),
    )
    op.create_index(
        op.f("ix_drills_account_id_created_at_id"),
        "drills",
        ["account_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_drills_schedule_id_created_at_id"),
        "drills",
        ["schedule_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_drills_snapshot_id_created_at_id"),
        "drills",
        ["snapshot_id", "created_at", "id"],
        unique=False,
    )
    op.create_table(
        "holds",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("snapshot_id", sa.String(length=36), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("created_by", sa.String(length=120), nullable=False),
        sa.Column("released_at", TIME, nullable=True),
        sa.Column("released_by", sa.String(length=120), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=op.f("fk_holds_account_id")),
        sa.ForeignKeyConstraint(
            ["snapshot_id"], ["snapshots.id"], name=op.f("fk_holds_snapshot_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_holds")),
    )
    op.create_index(op.f("ix_holds_snapshot_id"), "holds", ["snapshot_id"], unique=False)
    op.create_table(
        "restores",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("account_id", sa.String(length=36), nullable=False),
        sa.Column("snapshot_id", sa.String(length=36), nullable=False),
        sa.Column("host_id", sa.String(length=36), nullable=False),
        sa.Column("job_id", sa.String(length=36), nullable=True),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("paths", DOCUMENT, nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("finished_at", TIME, nullable=True),
        sa.Column("files", sa.BigInteger(), nullable=True),
        sa.Column("restored_bytes", sa.BigInteger(), nullable=True),
        sa.Column("findings", DOCUMENT, nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"], ["accounts.id"], name=op.f("fk_restores_account_id")
        ),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name=op.f("fk_restores_host_id")),
        sa.ForeignKeyConstraint(
            ["snapshot_id"], ["snapshots.id"], name=op.f("fk_restores_snapshot_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_restores")),
    )
    op.create_index(
        op.f("ix_restores_account_id_created_at_id"),
        "restores",
        ["account_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_restores_host_id_created_at_id"),
        "restores",
        ["host_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        op.f("ix_restores_snapshot_id_created_at_id"),
        "restores",
        ["snapshot_id", "created_at", "id"],
        unique=False,
    )
    op.create_table(
        "upload_parts",
        sa.Column("upload_id", sa.String(length=36), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("etag", sa.String(length=64), nullable=False),
        sa.Column("bodies", DOCUMENT, nullable=False),
        sa.Column("stored_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["uploads.id"], name=op.f("fk_upload_parts_upload_id")
        ),
        sa.PrimaryKeyConstraint("upload_id", "number", name=op.f("pk_upload_parts")),
    )
    op.create_table(
        "views",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("bucket_id", sa.String(length=36), nullable=False),
        sa.Column("snapshot_id", sa.String(length=36), nullable=False),
        sa.Column("task_id", sa.String(length=36), nullable=True),
        sa.Column(
            "prefix", sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), nullable=False
        ),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("removed_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["bucket_id"], ["buckets.id"], name=op.f("fk_views_bucket_id")),
        sa.ForeignKeyConstraint(
            ["snapshot_id"], ["snapshots.id"], name=op.f("fk_views_snapshot_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_views")),
    )
    op.create_index(
        op.f("ix_views_bucket_id_created_at_id"),
        "views",
        ["bucket_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(op.f("ix_views_snapshot_id"), "views", ["snapshot_id"], unique=False)
    op.create_index(
        "uq_views_bucket_id_prefix_snapshot_id",
        "views",
        ["bucket_id", "prefix", "snapshot_id"],
        unique=True,
    )

    append_only.protect(op.get_bind(), "audit", "ledger")
